//! What the output of a command that tried a case means.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::test::case::{Case, Family, Role, Seen, Service, Spot, Target, Want, Way, Who, name};
use crate::test::ground::{Laid, Place, Ran};
use crate::test::probe::{ECHO, LARGE, REPEATED};

/// How many bytes `netexec` reads of a datagram, and so answers, without the word `echo`.
const READ: usize = 2048 - ECHO.len();

/// `curl`: the connection was refused.
const REFUSED: i32 = 7;

/// `curl`: nothing came in time.
const TIMED_OUT: i32 = 28;

/// What the output says of the case: nothing if all is as it must be, else what is not, as the end
/// of a sentence.
pub fn judge(case: &Case, laid: &Laid, ran: &Ran) -> Result<(), String> {
    match case.want {
        Want::Refused => match ran.status {
            REFUSED => Ok(()),
            0 => Err(format!(
                "{} answered, where a refusal must come",
                said(&ran.stdout)
            )),
            TIMED_OUT => Err("nothing came, where a refusal must come at once".to_owned()),
            _ => Err(failure(ran)),
        },
        Want::Nothing => nothing(case, ran),
        Want::Reply if case.to == Target::Service(Service::Api) => {
            succeeded(ran)?;
            match ran.stdout.trim() {
                "" | "000" => Err("no answer came".to_owned()),
                _ => Ok(()),
            }
        }
        Want::Reply => succeeded(ran),
        Want::Echo => echo(case, ran),
        Want::Addresses => addresses(case, laid, ran),
        Want::Answer(..) if case.to == Target::Outside => outside(case, laid, ran),
        Want::Answer(who, seen) => answer(case, laid, ran, who, seen),
    }
}

fn nothing(case: &Case, ran: &Ran) -> Result<(), String> {
    if case.way == Way::Udp {
        return match ran.stdout.trim() {
            "" => Ok(()),
            answer => Err(format!("{} answered, which a policy forbids", said(answer))),
        };
    }
    match ran.status {
        // A policy may refuse as well as drop.
        REFUSED | TIMED_OUT => Ok(()),
        0 => Err(format!(
            "{} answered, which a policy forbids",
            said(&ran.stdout)
        )),
        _ => Err(failure(ran)),
    }
}

fn echo(case: &Case, ran: &Ran) -> Result<(), String> {
    if case.way == Way::Large {
        succeeded(ran)?;
        let came = ran.stdout.trim();
        return match came.parse() {
            Ok(LARGE) => Ok(()),
            _ => Err(format!("{} of {LARGE} bytes came back", said(came))),
        };
    }
    let mut words = ran.stdout.split_whitespace();
    let mut number = |word| {
        let found = words.by_ref().skip_while(|one| *one != word).nth(1);
        found.and_then(|number| number.parse::<usize>().ok())
    };
    let (Some(sent), Some(got)) = (number("sent"), number("got")) else {
        return Err(failure(ran));
    };
    let wanted = sent.saturating_sub(ECHO.len()).min(READ);
    match got {
        0 => Err(format!("no answer came to a datagram of {sent} bytes")),
        got if got < wanted => Err(format!("{got} of {wanted} bytes came back")),
        _ => Ok(()),
    }
}

fn addresses(case: &Case, laid: &Laid, ran: &Ran) -> Result<(), String> {
    succeeded(ran)?;
    let Target::Name(service) = case.to else {
        return Ok(());
    };
    let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
        let mut addresses = addresses.to_vec();
        addresses.retain(|one| Family::of(*one) == case.family);
        addresses
    };
    let wanted: BTreeSet<IpAddr> = match service {
        Service::Headless => {
            let servers = laid
                .spots
                .iter()
                .filter(|(spot, _)| spot.role == Role::Server);
            servers
                .flat_map(|(_, place)| of_family(&place.addresses))
                .collect()
        }
        service => of_family(&laid.portal(service)?.addresses)
            .into_iter()
            .collect(),
    };
    let found: BTreeSet<IpAddr> = ran
        .stdout
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    if found == wanted {
        return Ok(());
    }
    let list = |addresses: &BTreeSet<IpAddr>| {
        let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        match list.is_empty() {
            true => "no address".to_owned(),
            false => list.join(", "),
        }
    };
    Err(match found.is_empty() {
        true => format!("DNS knows no address of {}", name(service)),
        false => format!("DNS answers {} instead of {}", list(&found), list(&wanted)),
    })
}

/// What is outside may answer anything; if it is an address, it is the one that it saw.
fn outside(case: &Case, laid: &Laid, ran: &Ran) -> Result<(), String> {
    succeeded(ran)?;
    match seen_address(ran.stdout.lines().last().unwrap_or_default()) {
        Some(address) => is_of_node(laid, case.from.node, address),
        None => Ok(()),
    }
}

fn answer(case: &Case, laid: &Laid, ran: &Ran, who: Who, seen: Seen) -> Result<(), String> {
    if case.way == Way::Udp && ran.stdout.trim().is_empty() {
        return Err("no answer came".to_owned());
    }
    succeeded(ran)?;
    let mut lines = ran
        .stdout
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let mut names: Vec<&str> = match case.way {
        Way::Repeated => lines.by_ref().collect(),
        _ => lines.next().into_iter().collect(),
    };
    if names.is_empty() {
        return Err("the answer was empty".to_owned());
    }
    names.sort_unstable();
    names.dedup();
    answerers(laid, who, &names)?;
    let address = match seen {
        Seen::Any => return Ok(()),
        Seen::Sender | Seen::Node(_) => lines.next().unwrap_or_default(),
    };
    let Some(address) = seen_address(address) else {
        return Err(format!(
            "the answer does not say whom it came to: {}",
            said(&ran.stdout)
        ));
    };
    match seen {
        Seen::Any => Ok(()),
        Seen::Node(node) => is_of_node(laid, node, address),
        Seen::Sender => {
            let own = &laid.place(case.from)?.addresses;
            match own.contains(&address) {
                true => Ok(()),
                false => Err(format!(
                    "it was seen as {address}, not with its own address"
                )),
            }
        }
    }
}

fn answerers(laid: &Laid, who: Who, names: &[&str]) -> Result<(), String> {
    let servers: Vec<&str> = laid
        .spots
        .iter()
        .filter(|(spot, _)| spot.role == Role::Server)
        .map(|(_, place)| place.name())
        .collect();
    let stranger = |name: &&&str| !servers.contains(*name);
    match who {
        // What is in the network of a node answers with the name of the machine, whatever that is.
        Who::Spot(spot) if spot.role == Role::Host => Ok(()),
        Who::Spot(spot) => {
            let name = laid.place(spot)?.name();
            match names == [name] {
                true => Ok(()),
                false => Err(format!(
                    "{} answered instead of {name}",
                    said(&names.join(", "))
                )),
            }
        }
        Who::Server | Who::SameServer | Who::Servers => {
            if let Some(stranger) = names.iter().find(stranger) {
                return Err(format!("{} answered, which is no endpoint", said(stranger)));
            }
            match who {
                Who::SameServer if names.len() > 1 => Err(format!(
                    "one client was answered by {} in turn",
                    said(&names.join(", "))
                )),
                Who::Servers if names.len() == 1 && servers.len() > 1 => Err(format!(
                    "{} answered all of {REPEATED} connections, and there are {} endpoints",
                    names[0],
                    servers.len()
                )),
                _ => Ok(()),
            }
        }
    }
}

fn is_of_node(laid: &Laid, node: usize, address: IpAddr) -> Result<(), String> {
    let place = laid.place(Spot::host(node))?;
    match place.addresses.contains(&address) {
        true => Ok(()),
        false => Err(format!(
            "it was seen as {address}, not with the address of its node"
        )),
    }
}

/// The address in what `/clientip` answers: with its port, or alone.
fn seen_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = text.parse().map(|address: SocketAddr| address.ip());
    let address = with_port.or_else(|_| text.parse::<IpAddr>()).ok()?;
    Some(address.to_canonical())
}

fn succeeded(ran: &Ran) -> Result<(), String> {
    match ran.status {
        0 => Ok(()),
        _ => Err(failure(ran)),
    }
}

fn failure(ran: &Ran) -> String {
    let last = |text: &str| text.trim().lines().last().map(str::to_owned);
    let line = last(&ran.stderr).or_else(|| last(&ran.stdout));
    match line {
        // `curl: (28) Connection timed out after 2001 milliseconds`
        Some(line) => said(line.trim_start_matches("curl: ")),
        None => format!("no answer came (exit status {})", ran.status),
    }
}

/// What someone said, in one line of bounded length.
fn said(text: &str) -> String {
    const MOST: usize = 160;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// What is wrong with the address with which a pod sends, if it is not one of its own.
pub fn forged(place: &Place, ran: &Ran) -> Option<String> {
    let mut words = ran
        .stdout
        .split_whitespace()
        .skip_while(|word| *word != "src");
    let address: IpAddr = words.nth(1)?.parse().ok()?;
    match place.addresses.contains(&address) {
        true => None,
        false => Some(format!(
            "pod {} sends from {address}, which is not its address: its node drops that as forged",
            place.pod
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::case::{Group, Spot};
    use crate::test::fake::laid;
    use crate::test::plan::Plan;

    fn ran(status: i32, stdout: &str, stderr: &str) -> Ran {
        Ran {
            status,
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    fn plan() -> Plan {
        Plan::of(&crate::test::plan::tests::cluster(
            2,
            &[Family::V4, Family::V6],
        ))
    }

    /// The first case like this, over IPv4.
    fn case(group: Group, way: Way, from: Spot) -> Case {
        let plan = plan();
        let found = plan.cases.iter().find(|case| {
            (case.group, case.way, case.from, case.family) == (group, way, from, Family::V4)
                && case.to_node().is_none_or(|node| node == 1)
        });
        found
            .unwrap_or_else(|| panic!("{group:?} {way:?} {from:?}"))
            .clone()
    }

    fn judged(group: Group, way: Way, from: Spot, ran: &Ran) -> Result<(), String> {
        judge(&case(group, way, from), &laid(&plan()), ran)
    }

    #[track_caller]
    fn check(group: Group, way: Way, from: Spot, good: &Ran, bad: &[(Ran, &str)]) {
        assert_eq!(judged(group, way, from, good), Ok(()));
        for (ran, wanted) in bad {
            let said = judged(group, way, from, ran).unwrap_err();
            assert!(said.contains(wanted), "{said:?} does not say {wanted:?}");
        }
    }

    const CLIENT: Spot = Spot {
        role: Role::Client,
        node: 0,
    };
    const HOST: Spot = Spot {
        role: Role::Host,
        node: 0,
    };

    fn late() -> Ran {
        ran(
            28,
            "",
            "curl: (28) Connection timed out after 2001 milliseconds\n",
        )
    }

    #[test]
    fn a_pod_answers_by_its_name_and_sees_the_address_of_who_asks() {
        let good = ran(0, "server-1\n10.0.0.1:40000\n", "");
        let bad = [
            (
                ran(0, "server-0\n10.0.0.1:40000\n", ""),
                "server-0 answered instead of server-1",
            ),
            (
                ran(0, "server-1\n172.18.0.2:40000\n", ""),
                "seen as 172.18.0.2",
            ),
            (ran(0, "server-1\n", ""), "does not say whom it came to"),
            (ran(0, "", ""), "empty"),
            (late(), "(28) Connection timed out"),
        ];
        check(Group::PodToPod, Way::Tcp, CLIENT, &good, &bad);
    }

    #[test]
    fn a_ping_is_answered_or_not() {
        let bad = [(
            ran(1, "1 packets transmitted, 0 received\n", ""),
            "0 received",
        )];
        check(
            Group::PodToPod,
            Way::Ping,
            CLIENT,
            &ran(0, "1 received", ""),
            &bad,
        );
    }

    #[test]
    fn datagrams_come_back_whole() {
        let bad = [
            (ran(0, "", ""), "no answer came"),
            (ran(124, "", ""), "no answer came"),
            (ran(0, "server-0", ""), "server-0 answered"),
        ];
        check(
            Group::PodToPod,
            Way::Udp,
            CLIENT,
            &ran(0, "server-1", ""),
            &bad,
        );
        let bad = [
            (
                ran(0, "sent 1472 got 0\n", ""),
                "no answer came to a datagram of 1472 bytes",
            ),
            (ran(0, "sent 1472 got 1400\n", ""), "1400 of 1467 bytes"),
            (
                ran(1, "", "bash: connect: Network is unreachable"),
                "unreachable",
            ),
        ];
        let good = ran(0, "sent 1472 got 1467\n", "");
        check(Group::PodToPod, Way::FullSize, CLIENT, &good, &bad);
        // The server reads no more than that.
        let bad = [(ran(0, "sent 4000 got 1467\n", ""), "1467 of 2043")];
        let good = ran(0, "sent 4000 got 2043\n", "");
        check(Group::PodToPod, Way::Fragmented, CLIENT, &good, &bad);
    }

    #[test]
    fn large_bodies_come_back_whole() {
        let bad = [
            (ran(0, "1448\n", ""), "1448 of 50000"),
            (late(), "timed out"),
        ];
        check(
            Group::PodToPod,
            Way::Large,
            CLIENT,
            &ran(0, "50000\n", ""),
            &bad,
        );
    }

    #[test]
    fn a_service_is_answered_by_its_endpoints_only() {
        let good = ran(0, "server-0\n10.0.0.1:40000\n", "");
        let bad = [(
            ran(0, "client-0\n10.0.0.1:40000\n", ""),
            "client-0 answered, which is no endpoint",
        )];
        check(Group::ClusterIp, Way::Tcp, CLIENT, &good, &bad);
        let good = ran(0, "server-0\nserver-1\nserver-0\n", "");
        let bad = [(ran(0, "server-0\nserver-0\n", ""), "there are 2 endpoints")];
        check(Group::ClusterIp, Way::Repeated, CLIENT, &good, &bad);
        let good = ran(0, "server-0\nserver-0\n", "");
        let bad = [(
            ran(0, "server-0\nserver-1\n", ""),
            "by server-0, server-1 in turn",
        )];
        check(Group::Affinity, Way::Repeated, CLIENT, &good, &bad);
        let good = ran(0, "client-0\n10.0.0.1:40000\n", "");
        let bad = [(
            ran(0, "server-0\n10.0.0.1:40000\n", ""),
            "server-0 answered instead of client-0",
        )];
        check(Group::Hairpin, Way::Tcp, CLIENT, &good, &bad);
    }

    #[test]
    fn a_local_node_port_keeps_the_client_and_the_node() {
        let good = ran(0, "server-1\n172.18.0.2:40000\n", "");
        let bad = [
            (
                ran(0, "server-0\n172.18.0.2:40000\n", ""),
                "server-0 answered",
            ),
            (
                ran(0, "server-1\n172.18.0.3:40000\n", ""),
                "seen as 172.18.0.3",
            ),
        ];
        check(Group::NodePortLocal, Way::Tcp, HOST, &good, &bad);
    }

    #[test]
    fn without_endpoints_a_refusal_comes_at_once() {
        let good = ran(7, "", "curl: (7) Failed to connect\n");
        let bad = [
            (ran(0, "server-0\n", ""), "server-0 answered"),
            (late(), "must come at once"),
        ];
        check(Group::NoEndpoints, Way::Tcp, CLIENT, &good, &bad);
    }

    #[test]
    fn dns_answers_the_service_s_addresses_and_no_others() {
        let laid = laid(&plan());
        let web = laid.services[&Service::Web].addresses[0];
        let bad = [
            (ran(0, "", ""), "knows no address of web"),
            (ran(0, "10.96.9.9\n", ""), "answers 10.96.9.9 instead of"),
            (
                ran(9, ";; no servers could be reached\n", ""),
                "no servers could be reached",
            ),
        ];
        check(
            Group::Dns,
            Way::Lookup,
            CLIENT,
            &ran(0, &format!("{web}\n"), ""),
            &bad,
        );
    }

    #[test]
    fn outside_a_pod_has_its_node_s_address() {
        check(
            Group::Outside,
            Way::Tcp,
            CLIENT,
            &ran(0, "<html>", ""),
            &[(late(), "timed out")],
        );
        let good = ran(0, "172.18.0.2:40000", "");
        let bad = [(ran(0, "10.0.0.1:40000", ""), "seen as 10.0.0.1")];
        check(Group::Outside, Way::Tcp, CLIENT, &good, &bad);
    }

    #[test]
    fn what_a_policy_forbids_must_not_be_answered_and_must_have_been_tried() {
        let server = Spot::server(0);
        let bad = [
            (
                ran(0, "client-0\n", ""),
                "client-0 answered, which a policy forbids",
            ),
            (
                ran(127, "", "bash: curl: command not found\n"),
                "command not found",
            ),
        ];
        check(Group::PolicyForbids, Way::Tcp, server, &late(), &bad);
    }

    #[test]
    fn a_pod_that_sends_from_an_address_of_another_is_named() {
        let place = Place {
            pod: "test/client-0".into(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
        };
        let said = |text| forged(&place, &ran(0, text, ""));
        assert_eq!(
            said("10.0.0.12 via 10.0.0.254 dev eth0 src 10.0.0.1 uid 0"),
            None
        );
        assert_eq!(said("RTNETLINK answers: Network is unreachable"), None);
        let text = said("10.0.0.12 via 10.0.0.254 dev eth0 src 10.0.0.99 uid 0").unwrap();
        assert!(text.contains("sends from 10.0.0.99"), "{text}");
    }
}
