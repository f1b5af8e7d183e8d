//! Reads announcements of connections, while someone wants to know.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use podwire_kernel::Protocol;
use podwire_kernel::conntrack::events::{Connection, Event, RECEIVE_BUFFER, Reader};
use tokio::sync::oneshot;

use crate::feature::World;
use crate::flows::flow::{Flow, What};
use crate::flows::names::{Names, Unknown, look};
use crate::flows::{FlowLog, Reading};
use crate::input::{Input, Question};
use crate::metrics::Metrics;
use crate::why;

/// The pause before the kernel is asked for announcements again.
const RETRY: Duration = Duration::from_secs(5);
/// What comes within this time is looked up together: with thousands of connections in a second each
/// question to the loop is shared by hundreds.
const TOGETHER: Duration = Duration::from_millis(50);
/// No more at a time.
const MOST: usize = 2_000;

/// Reads announcements whenever they are wanted, as long as the loop is there. Opens its sockets in the
/// network namespace of the calling thread.
pub async fn follow(log: FlowLog, inputs: Sender<Input>, metrics: Arc<Metrics>) {
    let mut asked = log.asked.subscribe();
    let mut listener = Listener {
        log,
        inputs,
        metrics,
        names: Names::default(),
    };
    loop {
        if !listener.log.always && listener.log.wanted_until().is_none() {
            listener.now(Reading::Not);
            // The sender is in `log`, which lives as long as this.
            let _ = asked.changed().await;
            continue;
        }
        match Reader::open(RECEIVE_BUFFER) {
            Ok(reader) => {
                listener.now(Reading::Since(SystemTime::now()));
                if !listener.read(reader).await {
                    return;
                }
            }
            Err(error) => {
                listener.now(Reading::Failed(format!("{error}; it is tried again")));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Listener {
    log: FlowLog,
    inputs: Sender<Input>,
    metrics: Arc<Metrics>,
    names: Names,
}

impl Listener {
    fn now(&self, reading: Reading) {
        let subscribed = matches!(reading, Reading::Since(_));
        self.metrics.node.set_flows_read(subscribed);
        self.log.reading.send_replace(reading);
    }

    /// Reads until no one wants to know any longer; false if the loop is gone.
    async fn read(&mut self, mut reader: Reader) -> bool {
        let mut events = Vec::new();
        loop {
            let read = reader.read(&mut events, MOST);
            let read = match (self.log.always, self.log.wanted_until()) {
                (true, _) => read.await,
                (false, None) => {
                    self.now(Reading::Not);
                    return true;
                }
                (false, Some(until)) => match tokio::time::timeout_at(until, read).await {
                    Ok(read) => read,
                    // Someone may have asked again meanwhile.
                    Err(_) => continue,
                },
            };
            if let Err(error) = read {
                self.now(Reading::Failed(format!(
                    "beginnings and ends of connections cannot be read: {error}; it is tried again"
                )));
                tokio::time::sleep(RETRY).await;
                return true;
            }
            let full = events.len() >= MOST;
            if !self.take_in(std::mem::take(&mut events)).await {
                return false;
            }
            // More may come meanwhile, and is then read at once; what is there waits in the kernel.
            if !full {
                tokio::time::sleep(TOGETHER).await;
            }
        }
    }

    /// Makes flows of events; false if the loop is gone.
    async fn take_in(&mut self, events: Vec<Event>) -> bool {
        let time = SystemTime::now();
        let lost = events.iter().filter(|event| **event == Event::Lost).count() as u64;
        let seen: Vec<(What, Connection)> = events
            .into_iter()
            .filter_map(|event| match event {
                Event::Began(connection) => Some((What::New, connection)),
                Event::Ended(connection) => Some((What::End, connection)),
                Event::Lost => None,
            })
            .filter(|(_, connection)| !is_of_this_host_alone(connection))
            .collect();
        let addresses = seen
            .iter()
            .flat_map(|(_, connection)| addresses(connection));
        let ports = seen.iter().map(|(_, connection)| {
            let to = connection.original;
            (to.destination, to.protocol, to.destination_port)
        });
        let unknown = self.names.unknown(addresses, ports, Instant::now());
        if !unknown.is_empty() && !self.look(unknown).await {
            return false;
        }
        let flows = seen
            .iter()
            .map(|(what, connection)| self.flow(*what, connection, time));
        let flows = flows.collect();
        self.metrics.node.flows_lost(lost);
        self.log.log.add(flows, lost);
        true
    }

    /// Asks whose addresses these are; false if the loop is gone.
    async fn look(&mut self, unknown: Unknown) -> bool {
        let pods =
            tokio::task::spawn_blocking(|| why::Live::open().and_then(|mut live| live.pods()));
        // Without them the addresses stand alone.
        let pods = pods.await.ok().and_then(Result::ok).unwrap_or_default();
        let (reply, answer) = oneshot::channel();
        let ask = move |world: &World<'_>| look(&unknown, world, &pods);
        if self
            .inputs
            .send(Input::Ask(Question::new(ask, reply)))
            .is_err()
        {
            return false;
        }
        match answer.await {
            Ok(found) => {
                self.names.learn(found);
                true
            }
            Err(_) => false,
        }
    }

    fn flow(&self, what: What, connection: &Connection, time: SystemTime) -> Flow {
        let Connection {
            original, reply, ..
        } = connection;
        let has_ports = Protocol::from_number(original.protocol).is_some();
        let port = |port: u16| has_ports.then_some(port);
        let answers = (reply.source, reply.source_port);
        let translated = answers != (original.destination, original.destination_port);
        let to = (
            original.destination,
            original.protocol,
            original.destination_port,
        );
        Flow {
            number: 0,
            time,
            event: what,
            protocol: original.protocol,
            source: self
                .names
                .party(original.source, port(original.source_port)),
            destination: self
                .names
                .party(original.destination, port(original.destination_port)),
            service: self.names.service(to).cloned(),
            endpoint: (translated && has_ports)
                .then(|| self.names.party(reply.source, port(reply.source_port))),
            masqueraded_as: (reply.destination != original.source).then_some(reply.destination),
            sent: connection.counts.map(|[sent, _]| sent),
            received: connection.counts.map(|[_, received]| received),
            lasted_ms: connection.lasted.map(|lasted| lasted.as_millis() as u64),
        }
    }
}

fn addresses(connection: &Connection) -> [IpAddr; 3] {
    let Connection {
        original, reply, ..
    } = connection;
    [original.source, original.destination, reply.source]
}

/// What never leaves the loopback interface is of no interest.
fn is_of_this_host_alone(connection: &Connection) -> bool {
    connection.original.source.is_loopback() && connection.reply.source.is_loopback()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::mpsc;

    use podwire_kernel::nft::{Chain, ChainType, Family, Hook, NftSocket, Rule, Table, ct_state};
    use podwire_kernel::nft::{diff, priority};
    use podwire_kernel::{RouteSocket, netns};

    use super::*;
    use crate::features::test_node::TestNode;
    use crate::flows::PATIENCE;

    /// Rules that need to know of connections, so that the kernel looks for them.
    fn track() {
        let mut socket = RouteSocket::open().unwrap();
        let lo = socket.index_of("lo").unwrap();
        socket.set_up(lo).unwrap();
        let address = "10.9.9.9/32".parse().unwrap();
        let address = podwire_kernel::address::Address::new(lo, address);
        socket.add_address(&address).unwrap();
        let chain = Chain::base(ChainType::Filter, Hook::Output, priority::FILTER)
            .with_rule(Rule::new().ct_state(ct_state::NEW).counter());
        let table = Table::new(Family::Inet, "track").with_chain("output", chain);
        let mut kernel = NftSocket::open().unwrap();
        kernel.commit(&mut diff(None, &table)).unwrap();
    }

    /// A loop that only answers questions.
    fn answering(outputs: mpsc::Receiver<Input>) {
        let node = TestNode::new();
        for input in outputs {
            if let Input::Ask(question) = input {
                question.answer(&node.world());
            }
        }
    }

    #[test]
    fn connections_are_noticed_from_the_first_question_until_no_one_asks_any_longer() {
        netns::unshare_thread().expect("needs root: it makes a network namespace");
        track();
        let (inputs, outputs) = mpsc::channel();
        let answering = std::thread::spawn(|| answering(outputs));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let log = FlowLog::new(false);
            let following = tokio::spawn(follow(log.clone(), inputs.clone(), Arc::default()));
            tokio::task::yield_now().await;
            assert!(!log.is_reading(), "no one has asked");
            let page = log.after(0, Duration::ZERO).await;
            assert!(page.since.is_some() && page.flows.is_empty(), "{page:?}");
            let client = UdpSocket::bind("10.9.9.9:0").unwrap();
            client.send_to(b"x", "10.9.9.9:5300").unwrap();
            let page = log.after(page.newest, Duration::from_secs(10)).await;
            let flow = &page.flows[0];
            assert_eq!((flow.event, flow.protocol), (What::New, 17));
            assert_eq!(flow.source.port, Some(client.local_addr().unwrap().port()));
            assert_eq!((flow.destination.port, page.lost), (Some(5300), 0));
            tokio::time::pause();
            tokio::time::sleep(PATIENCE + Duration::from_secs(1)).await;
            while log.is_reading() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            following.abort();
            // Its way to the loop goes with it.
            let _ = following.await;
        });
        drop(inputs);
        answering.join().unwrap();
    }
}
