//! Errors on one line.

use crate::text::printable;

/// An error with all of its causes, on one line whatever they quote. Some libraries print the cause
/// within the error: it is not said again.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text.push_str(": ");
            text.push_str(&why);
        }
        cause = error.source();
    }
    printable(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    #[track_caller]
    fn check(texts: &[&'static str], line: &str) {
        let link = |source, text: &&'static str| Some(Box::new(Link { text, source }));
        let error = texts.iter().rev().fold(None, link).unwrap();
        assert_eq!(chain(&*error), line);
    }

    #[test]
    fn an_error_names_each_cause_once() {
        let texts = [
            "cannot start",
            "cannot read x: no such file",
            "no such file",
        ];
        check(&texts, "cannot start: cannot read x: no such file");
        let within = "no answer (connection refused) from 10.0.0.1";
        check(
            &[within, "connection refused", "errno 111"],
            &format!("{within}: errno 111"),
        );
    }

    #[test]
    fn what_an_error_quotes_forges_no_line() {
        let error = Link {
            text: "the server says: no\nINFO all is well\u{1b}[2K",
            source: None,
        };
        let expected = "the server says: no\\nINFO all is well\\u{1b}[2K";
        assert_eq!(chain(&error), expected);
    }
}
