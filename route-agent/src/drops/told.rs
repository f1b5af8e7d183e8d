//! Which drops become Events: one for each pod and direction in a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::drops::dropped::Dropped;
use crate::warnings::{Notice, Warning};

/// The next Event about the same pod and direction comes after this time.
const AGAIN: Duration = Duration::from_secs(600);
/// More pods than this have no Event at a time.
const REMEMBERED: usize = 1000;

/// What was told, and when.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<(String, String), Instant>);

impl Told {
    /// What is to be told about a drop, if anything. `moment` is in seconds since 1970.
    pub fn about(&mut self, drop: &Dropped, now: Instant, moment: u64) -> Option<Notice> {
        let direction = drop.direction.clone().filter(|_| !drop.allowed_by_now)?;
        let pod = drop.local()?.pod.clone()?;
        self.0.retain(|_, at| now.duration_since(*at) < AGAIN);
        let key = (pod.clone(), direction);
        if self.0.contains_key(&key) || self.0.len() >= REMEMBERED {
            return None;
        }
        let (way, peer) = match key.1.as_str() {
            "egress" => ("to", drop.peer()),
            _ => ("from", drop.peer()),
        };
        let text = format!(
            "{} {way} {peer} was dropped: {}",
            drop.traffic(),
            words(drop, &key.1)
        );
        self.0.insert(key, now);
        Some(Notice {
            warning: Warning::new(format!("Pod {pod}"), text),
            reason: "NetworkPolicyDenied",
            moment,
        })
    }
}

/// Why, with the policies that isolate the pod.
fn words(drop: &Dropped, direction: &str) -> String {
    let mut names = drop.isolated_by.join(", ");
    if drop.isolated_by_more > 0 {
        names += &format!(" and {} more", drop.isolated_by_more);
    }
    match (&drop.denied_by, &drop.nearest) {
        (None, Some(nearest)) => {
            format!("denied by {direction}; isolated by {names}; nearest rule: {nearest}")
        }
        (None, None) if !names.is_empty() => format!("denied by {direction}; isolated by {names}"),
        _ => drop.because.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::dropped::tests::a_drop;

    #[test]
    fn a_pod_is_told_about_once_in_a_while_for_each_direction() {
        let (mut told, start) = (Told::default(), Instant::now());
        let ingress = a_drop();
        let notice = told.about(&ingress, start, 5).unwrap();
        assert_eq!(notice.warning.object, "Pod shop/db-0");
        let text = "tcp 5432 from 10.10.2.9 (shop/web-1) was dropped: denied by ingress; isolated by \
             shop/db, shop/default-deny; nearest rule: shop/db allows tcp 5432 from role=api; the pod \
             has role=web";
        assert_eq!(notice.warning.text, text);
        assert_eq!(told.about(&ingress, start + AGAIN / 2, 6), None);
        let egress = Dropped {
            direction: Some("egress".into()),
            ..a_drop()
        };
        let notice = told.about(&egress, start + AGAIN / 2, 6).unwrap();
        assert_eq!(notice.warning.object, "Pod shop/web-1");
        assert!(told.about(&ingress, start + AGAIN, 7).is_some());
        // What is allowed by now, and what belongs to no known pod, is not worth it.
        let late = start + AGAIN * 3;
        assert_eq!(
            told.about(
                &Dropped {
                    allowed_by_now: true,
                    ..a_drop()
                },
                late,
                8
            ),
            None
        );
        assert_eq!(
            told.about(
                &Dropped {
                    direction: None,
                    ..a_drop()
                },
                late,
                8
            ),
            None
        );
    }
}
