//! Labels, and the selectors that ask for them.
//!
//! A selector that could not be read as a whole is never here: what it belongs to says so instead.

use std::fmt;
use std::sync::Arc;

/// Labels, sorted by key. Objects with the same labels share one list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// No labels.
    pub fn none() -> Self {
        Self(Arc::from([]))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(there, _)| (**there).cmp(key));
        at.ok().map(|at| &*self.0[at].1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many objects share this list.
    pub fn shared_by(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl FromIterator<(Arc<str>, Arc<str>)> for Labels {
    /// Of a key that is given twice the last value counts.
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<str>)>>(labels: I) -> Self {
        let sorted: std::collections::BTreeMap<_, _> = labels.into_iter().collect();
        Self(sorted.into_iter().collect())
    }
}

/// What a selector asks of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// It is there, with one of these values; sorted.
    In(Box<[Arc<str>]>),
    /// It is absent, or has none of these values; sorted.
    NotIn(Box<[Arc<str>]>),
    /// It is there.
    Exists,
    /// It is absent.
    Absent,
}

/// One condition of a selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label.
    pub key: Arc<str>,
    /// What is asked of it.
    pub condition: Condition,
}

impl Requirement {
    /// How many values it names.
    pub fn values(&self) -> usize {
        match &self.condition {
            Condition::In(values) | Condition::NotIn(values) => values.len(),
            Condition::Exists | Condition::Absent => 0,
        }
    }

    fn is_met_by(&self, labels: &Labels) -> bool {
        let is_one_of = |values: &[Arc<str>], value: &str| {
            let at = values.binary_search_by(|one| (**one).cmp(value));
            at.is_ok()
        };
        match (&self.condition, labels.get(&self.key)) {
            (Condition::In(values), Some(value)) => is_one_of(values, value),
            (Condition::NotIn(values), Some(value)) => !is_one_of(values, value),
            (Condition::Exists, Some(_)) | (Condition::NotIn(_) | Condition::Absent, None) => true,
            (Condition::In(_) | Condition::Exists, None) | (Condition::Absent, Some(_)) => false,
        }
    }
}

/// A label selector: all of its requirements must be met. Empty, it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Box<[Requirement]>);

impl Selector {
    /// A selector with these requirements, in whatever order.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_unstable();
        requirements.dedup();
        Self(requirements.into())
    }

    /// True if it selects what has these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|one| one.is_met_by(labels))
    }

    /// How many looks at labels it may take.
    pub fn cost(&self) -> usize {
        self.0.len().max(1)
    }

    /// What these labels lack to be selected.
    pub fn unmet<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a Requirement> {
        self.0.iter().filter(|one| !one.is_met_by(labels))
    }

    /// The labels each of which must have one of these values.
    pub fn required(&self) -> impl Iterator<Item = (&Arc<str>, &[Arc<str>])> {
        self.0.iter().filter_map(|one| match &one.condition {
            Condition::In(values) => Some((&one.key, &**values)),
            Condition::NotIn(_) | Condition::Exists | Condition::Absent => None,
        })
    }

    /// True if it asks for no label but this one.
    pub fn is_about(&self, key: &str) -> bool {
        self.0.iter().all(|one| *one.key == *key)
    }

    /// True if it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Selector {
    /// As `kubectl get -l` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Requirement { key, condition }) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            match condition {
                Condition::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Condition::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Condition::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Condition::Exists => write!(f, "{key}")?,
                Condition::Absent => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('='));
        pairs
            .map(|pair| pair.unwrap())
            .map(|(key, value)| (Arc::from(key), Arc::from(value)))
            .collect()
    }

    fn one(key: &str, condition: Condition) -> Selector {
        Selector::new(vec![Requirement {
            key: Arc::from(key),
            condition,
        }])
    }

    fn values(text: &str) -> Box<[Arc<str>]> {
        text.split_whitespace().map(Arc::from).collect()
    }

    #[test]
    fn each_condition_asks_what_its_name_says() {
        let (web, bare) = (labels("app=web tier=front"), labels("tier=front"));
        for (condition, of_web, of_bare) in [
            (Condition::In(values("db web")), true, false),
            (Condition::In(values("db")), false, false),
            (Condition::In(values("")), false, false),
            (Condition::NotIn(values("db web")), false, true),
            (Condition::NotIn(values("db")), true, true),
            (Condition::Exists, true, false),
            (Condition::Absent, false, true),
        ] {
            let selector = one("app", condition);
            assert_eq!(selector.selects(&web), of_web, "{selector}");
            assert_eq!(selector.selects(&bare), of_bare, "{selector}");
        }
    }

    #[test]
    fn all_requirements_must_be_met_and_none_is_always() {
        let both = Selector::new(vec![
            Requirement {
                key: Arc::from("tier"),
                condition: Condition::In(values("front")),
            },
            Requirement {
                key: Arc::from("app"),
                condition: Condition::In(values("web")),
            },
        ]);
        assert!(both.selects(&labels("app=web tier=front")));
        assert!(!both.selects(&labels("app=web")));
        let web = labels("app=web");
        let unmet: Vec<_> = both.unmet(&web).map(|one| &*one.key).collect();
        assert_eq!(unmet, ["tier"]);
        assert_eq!(both.to_string(), "app=web,tier=front");
        assert!(Selector::default().selects(&Labels::none()));
    }
}
