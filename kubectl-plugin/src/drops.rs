//! `drops`: what the rules of all nodes refused and dropped, and why.

use std::borrow::Cow;

use podwire_agent::drops::{Dropped, Page};
use podwire_agent::flows::filter::is_named;

use crate::stream;

impl stream::Page for Page {
    type Record = Dropped;
    const PATH: &'static str = "/drops";
    const NOTHING: &'static str = "Nothing has been refused or dropped since the agents' start.";
    const VERDICTS: [&'static str; 2] = ["refused", "dropped"];

    fn newest(&self) -> u64 {
        self.newest
    }

    fn remarks(&self) -> Vec<String> {
        let idle = self
            .idle
            .iter()
            .map(|why| format!("nothing is read now: {why}"));
        let lost =
            (self.lost > 0).then(|| format!("{} were logged and could not be read", self.lost));
        let forgotten = (self.forgotten > 0 && !self.drops.is_empty())
            .then(|| format!("{} older ones are no longer kept", self.forgotten));
        idle.chain(lost).chain(forgotten).collect()
    }

    fn records(self) -> Vec<Dropped> {
        self.drops
    }
}

impl stream::Record for Dropped {
    fn time(&self) -> Cow<'_, str> {
        self.time.as_str().into()
    }

    fn pods(&self) -> Vec<&str> {
        let ends = [&self.source.pod, &self.destination.pod, &self.sent_by];
        ends.into_iter().filter_map(|pod| pod.as_deref()).collect()
    }

    fn is_of_service(&self, service: &str) -> bool {
        let by = self.decided_by.strip_prefix("Service ");
        // What follows the name is the port.
        let name = by.and_then(|by| by.split([',', ' ']).next());
        name.is_some_and(|name| is_named(name, service))
    }

    fn verdict(&self) -> &str {
        &self.verdict
    }

    fn port(&self) -> Option<u16> {
        self.port
    }

    fn protocol(&self) -> Cow<'_, str> {
        self.protocol.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Flags, Record};

    fn dropped() -> Dropped {
        serde_json::from_value(serde_json::json!({
            "number": 1, "time": "1970-01-01T00:00:00Z", "reason": "no-endpoints",
            "verdict": "refused", "decided_by": "Service default/web, port 80/tcp (http)",
            "because": "b", "protocol": "tcp", "port": 80,
            "source": {"address": "10.10.1.2", "pod": "default/a"},
            "destination": {"address": "10.200.0.1"},
            "reply": false, "isolated_by": [], "allowed_by_now": false,
        }))
        .unwrap()
    }

    #[test]
    fn a_drop_is_found_by_pod_namespace_service_verdict_port_and_protocol() {
        let one = dropped();
        assert!(one.is_of_service("default/web") && one.is_of_service("web"));
        let some = |text: &str| Some(text.to_owned());
        let yes = Flags {
            pod: some("a"),
            pod_namespace: some("default"),
            service: some("web"),
            verdict: some("refused"),
            port: Some(80),
            protocol: Some(6),
            ..Flags::default()
        };
        assert!(yes.wants(&one));
        for no in [
            Flags {
                pod: some("default/b"),
                ..yes.clone()
            },
            Flags {
                pod_namespace: some("defaul"),
                ..yes.clone()
            },
            Flags {
                service: some("we"),
                ..yes.clone()
            },
            Flags {
                verdict: some("dropped"),
                ..yes.clone()
            },
            Flags {
                port: Some(81),
                ..yes.clone()
            },
            Flags {
                protocol: Some(17),
                ..yes.clone()
            },
            Flags {
                since: Some(std::time::Duration::from_secs(60)),
                ..yes.clone()
            },
        ] {
            assert!(!no.wants(&one), "{no:?}");
        }
    }
}
