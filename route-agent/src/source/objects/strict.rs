//! Reading what must be understood as a whole: label selectors, and maps without fields that are not
//! known.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::snapshot::{Condition, Requirement, Selector};
use crate::source::objects::Names;

/// A longer text is none that Kubernetes could hold here. In bytes.
pub const LONGEST: usize = 4096;

/// A selector may have this many requirements.
const OF_SELECTOR: usize = 100;
/// All selectors of a policy may have this many, which counts as well for those that are found by a value
/// that a pod must have: all pods may have it.
const OF_POLICY: usize = 10_000;
/// Of these, as many may be of selectors that name no such value: what they ask is always asked of every
/// pod and every Namespace.
const OF_ALL_PODS: usize = 1000;
/// As many values may all requirements of a selector have: each is kept in memory to be found by.
const MOST_VALUES: usize = 10_000;

/// Reads the selectors of one policy, until they ask too much together.
#[derive(Debug)]
pub struct Selectors {
    room: usize,
    of_all_pods: usize,
}

impl Default for Selectors {
    fn default() -> Self {
        Self {
            room: OF_POLICY,
            of_all_pods: OF_ALL_PODS,
        }
    }
}

impl Selectors {
    /// A label selector; `None` if it is not understood, or one too many.
    pub fn read(&mut self, names: &mut Names, given: &Value) -> Option<Selector> {
        let requirements = requirements(names, given)?;
        let cost = requirements.len();
        let is_found = |one: &Requirement| matches!(one.condition, Condition::In(_));
        if !requirements.iter().any(is_found) {
            self.of_all_pods = self.of_all_pods.checked_sub(cost)?;
        }
        self.room = self.room.checked_sub(cost)?;
        Some(Selector::new(requirements))
    }
}

fn requirements(names: &mut Names, selector: &Value) -> Option<Vec<Requirement>> {
    let fields = selector.as_object()?;
    if unknown(fields, &["matchLabels", "matchExpressions"]).is_some() {
        return None;
    }
    let mut requirements = Vec::new();
    match present(fields, "matchLabels") {
        None => {}
        Some(Value::Object(labels)) => {
            for (key, value) in labels {
                let value = label(names, value)?;
                requirements.push(Requirement {
                    key: names.get(key),
                    condition: Condition::In([value].into()),
                });
            }
        }
        Some(_) => return None,
    }
    match present(fields, "matchExpressions") {
        None => {}
        Some(Value::Array(expressions)) => {
            for expression in expressions {
                requirements.push(requirement(names, expression)?);
            }
        }
        Some(_) => return None,
    }
    let values = requirements.iter().map(Requirement::values).sum::<usize>();
    let is_bounded = requirements.len() <= OF_SELECTOR && values <= MOST_VALUES;
    is_bounded.then_some(requirements)
}

fn requirement(names: &mut Names, expression: &Value) -> Option<Requirement> {
    let fields = expression.as_object()?;
    if unknown(fields, &["key", "operator", "values"]).is_some() {
        return None;
    }
    let key = present(fields, "key")?.as_str()?;
    let mut values: Vec<Arc<str>> = match present(fields, "values") {
        None => Vec::new(),
        Some(Value::Array(values)) => {
            let values = values.iter().map(|value| label(names, value));
            values.collect::<Option<_>>()?
        }
        Some(_) => return None,
    };
    values.sort_unstable();
    values.dedup();
    let condition = match (present(fields, "operator")?.as_str()?, values.is_empty()) {
        ("In", false) => Condition::In(values.into()),
        ("NotIn", false) => Condition::NotIn(values.into()),
        ("Exists", true) => Condition::Exists,
        ("DoesNotExist", true) => Condition::Absent,
        _ => return None,
    };
    Some(Requirement {
        key: names.get(key),
        condition,
    })
}

/// The value of a label: a manifest may have a number or a truth value there.
fn label(names: &mut Names, value: &Value) -> Option<Arc<str>> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => return None,
    };
    (text.len() <= LONGEST).then(|| names.get(&text))
}

/// A field that is there and not null.
pub fn present<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// The first field that is not among those that are known.
pub fn unknown<'v>(fields: &'v Map<String, Value>, known: &[&str]) -> Option<&'v str> {
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    let mut names = given.map(|(name, _)| name.as_str());
    names.find(|name| !known.contains(name))
}

/// A value in a message.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
