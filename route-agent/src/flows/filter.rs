//! Which flows are meant.

use std::net::IpAddr;

use clap::Args;

use crate::flows::flow::{Flow, protocol_number};

/// Which ones to show; all that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Filter {
    /// From or to this pod: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub pod: Option<String>,

    /// From, to or through pods and Services of this namespace.
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Through this Service: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub service: Option<String>,

    /// From or to this address.
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,

    /// To this port, as the client addressed it or as the endpoint has it.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Over this protocol: tcp, udp, sctp, icmp, icmpv6 or a number.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub protocol: Option<u8>,
}

fn protocol(name: &str) -> Result<u8, String> {
    protocol_number(name).ok_or_else(|| {
        format!("`{name}` is no protocol; give tcp, udp, sctp, icmp, icmpv6 or a number")
    })
}

impl Filter {
    /// Whether a flow is meant.
    pub fn takes(&self, flow: &Flow) -> bool {
        let pods = || flow.parties().filter_map(|party| party.pod.as_ref());
        let service = flow.service_name();
        let names = || pods().map(|pod| &*pod.0).chain(service);
        let namespace =
            |wanted: &String| names().any(|name| name.split('/').next() == Some(wanted.as_str()));
        let pod = |wanted: &String| pods().any(|name| is_named(&name.0, wanted));
        let of_service = |wanted: &String| service.is_some_and(|name| is_named(name, wanted));
        let mut answering = [&flow.destination, flow.answering()].into_iter();
        self.pod.as_ref().is_none_or(pod)
            && self.namespace.as_ref().is_none_or(namespace)
            && self.service.as_ref().is_none_or(of_service)
            && self
                .address
                .is_none_or(|address| flow.parties().any(|party| party.address == address))
            && self
                .port
                .is_none_or(|port| answering.any(|party| party.port == Some(port)))
            && self.protocol.is_none_or(|number| flow.protocol == number)
    }
}

/// True if a `namespace/name` is meant by either its name or both.
pub fn is_named(full: &str, wanted: &str) -> bool {
    full == wanted || full.split_once('/').is_some_and(|(_, name)| name == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::flow::tests::a_flow;

    #[test]
    fn a_filter_takes_what_it_names_and_nothing_else() {
        let flow = a_flow();
        let none = Filter::default();
        let set = |change: &dyn Fn(&mut Filter)| {
            let mut filter = none.clone();
            change(&mut filter);
            filter
        };
        let text = |text: &str| Some(text.to_owned());
        type Row<'a> = (&'a dyn Fn(&mut Filter), bool);
        let takes: [Row<'_>; 17] = [
            (&|_| {}, true),
            (&|one| one.pod = text("client"), true),
            (&|one| one.pod = text("default/client"), true),
            (&|one| one.pod = text("other/client"), false),
            (&|one| one.pod = text("web"), false),
            (&|one| one.namespace = text("default"), true),
            (&|one| one.namespace = text("def"), false),
            (&|one| one.service = text("web"), true),
            (&|one| one.service = text("default/web"), true),
            (&|one| one.service = text("default/web:http"), false),
            (&|one| one.address = Some([10, 244, 2, 3].into()), true),
            (&|one| one.address = Some([10, 244, 2, 4].into()), false),
            (&|one| one.port = Some(80), true),
            (&|one| one.port = Some(8080), true),
            (&|one| one.port = Some(41_234), false),
            (&|one| one.protocol = Some(6), true),
            (&|one| one.protocol = Some(17), false),
        ];
        for (number, (change, expected)) in takes.into_iter().enumerate() {
            assert_eq!(set(change).takes(&flow), expected, "row {number}");
        }
        let both = set(&|one| {
            one.port = Some(80);
            one.protocol = Some(17);
        });
        assert!(!both.takes(&flow), "all must hold");
    }
}
