//! `flows`: connections as they begin and end on all nodes. One between two nodes is told by both.

use std::borrow::Cow;

use podwire_agent::clock::rfc3339;
use podwire_agent::flows::filter::is_named;
use podwire_agent::flows::flow::What;
use podwire_agent::flows::{AT_ONCE, Flow, Page};
use podwire_agent::text::protocol_name;

use crate::stream;

impl stream::Page for Page {
    type Record = Flow;
    const PATH: &'static str = "/flows";
    const NOTHING: &'static str = "No connection has been noticed: they are from now on, for half a minute. --follow shows them.";
    const VERDICTS: [&'static str; 2] = ["new", "end"];

    fn newest(&self) -> u64 {
        self.newest
    }

    fn remarks(&self) -> Vec<String> {
        let trouble = self.trouble.iter();
        let trouble = trouble.map(|why| format!("nothing is noticed now: {why}"));
        let lost = (self.lost > 0).then(|| {
            let times = self.lost;
            format!("connections came faster than they were read: some were missed {times} times")
        });
        let forgotten = (self.forgotten > 0 && !self.flows.is_empty())
            .then(|| format!("{} older ones are no longer kept", self.forgotten));
        trouble.chain(lost).chain(forgotten).collect()
    }

    fn is_cut(&self) -> bool {
        self.flows.len() >= AT_ONCE
    }

    fn records(self) -> Vec<Flow> {
        self.flows
    }
}

impl stream::Record for Flow {
    fn time(&self) -> Cow<'_, str> {
        rfc3339(self.time).into()
    }

    fn pods(&self) -> Vec<&str> {
        let pods = self.parties().filter_map(|party| party.pod.as_ref());
        pods.map(|pod| &*pod.0).collect()
    }

    fn is_of_service(&self, service: &str) -> bool {
        self.service_name()
            .is_some_and(|name| is_named(name, service))
    }

    fn verdict(&self) -> &str {
        match self.event {
            What::New => "new",
            What::End => "end",
        }
    }

    fn port(&self) -> Option<u16> {
        self.destination.port
    }

    fn protocol(&self) -> Cow<'_, str> {
        protocol_name(self.protocol).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Flags;

    #[test]
    fn a_flow_is_found_by_pod_service_event_port_and_protocol() {
        let flow: Flow = serde_json::from_value(serde_json::json!({
            "number": 1, "time": "2026-11-23T04:30:05.120Z", "event": "new", "protocol": "tcp",
            "source": {"address": "10.10.1.2", "port": 40000, "pod": "default/a"},
            "destination": {"address": "10.200.0.1", "port": 80}, "service": "default/web:http",
            "endpoint": {"address": "10.10.2.3", "port": 8080, "pod": "shop/web-0"},
        }))
        .unwrap();
        let some = |text: &str| Some(text.to_owned());
        let yes = Flags {
            pod: some("shop/web-0"),
            pod_namespace: some("default"),
            service: some("web"),
            verdict: some("new"),
            port: Some(80),
            protocol: Some(6),
            ..Flags::default()
        };
        assert!(yes.wants(&flow));
        for no in [
            Flags {
                pod: some("b"),
                ..yes.clone()
            },
            Flags {
                service: some("default/web:http"),
                ..yes.clone()
            },
            Flags {
                verdict: some("end"),
                ..yes.clone()
            },
            Flags {
                port: Some(40_000),
                ..yes.clone()
            },
        ] {
            assert!(!no.wants(&flow), "{no:?}");
        }
    }
}
