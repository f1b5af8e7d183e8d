//! What must not leave the cluster is taken out of objects.

use serde_json::Value;

const LEFT_OUT: &str = "(left out)";

/// Parts of names of fields whose text is a secret.
const SECRET: [&str; 4] = ["token", "password", "secret", "privatekey"];

/// Takes out of an object the values of environment variables, all annotations, who manages which
/// field, and every text under a name that sounds like a secret.
pub(super) fn object(object: &mut Value) {
    match object {
        Value::Object(fields) => {
            fields.remove("annotations");
            fields.remove("managedFields");
            for (name, value) in fields {
                match name.as_str() {
                    "env" => variables(value),
                    name if is_secret(name) => *value = LEFT_OUT.into(),
                    _ => object_or_text(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(object_or_text),
        _ => {}
    }
}

fn object_or_text(value: &mut Value) {
    if value.is_object() || value.is_array() {
        object(value);
    }
}

fn variables(value: &mut Value) {
    for variable in value.as_array_mut().into_iter().flatten() {
        if let Some(value) = variable.get_mut("value") {
            *value = LEFT_OUT.into();
        }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|secret| name.contains(secret))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_do_not_stay_and_the_rest_does() {
        let mut pod = json!({
            "metadata": {
                "name": "podwire-a",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "S3CRET"},
                "managedFields": [{"manager": "S3CRET"}],
            },
            "spec": {"containers": [{
                "image": "podwire:0.1.0",
                "env": [{"name": "A", "value": "S3CRET"}, {"name": "B", "valueFrom": {"x": "y"}}],
                "args": ["run"],
            }], "volumes": [{"secret": {"secretName": "S3CRET"}}], "authToken": "S3CRET"},
        });
        object(&mut pod);
        let text = pod.to_string();
        assert!(!text.contains("S3CRET"), "{text}");
        for kept in ["podwire-a", "podwire:0.1.0", "\"A\"", "valueFrom", "run"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
