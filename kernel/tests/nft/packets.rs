//! Rules at work: real packets through what the encoder wrote.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::Netns;
use podwire_kernel::nft::{
    Chain, ChainType, CtKey, Element, Expr, Family, Field, Hook, KeyBuf, NftSocket, Rule, Set,
    Source, Table, Value, Verdict, priority,
};
use podwire_kernel::route::Route;

use crate::lab::{in_netns, install, observe};

struct Words {
    family: Family,
    saddr: Field,
    daddr: Field,
    original: CtKey,
    reply: CtKey,
    vip: IpAddr,
    here: IpAddr,
}

const UDP: u8 = 17;
const PORT: u16 = 53;

fn both() -> [Words; 2] {
    [
        Words {
            family: Family::Ip,
            saddr: Field::IpSaddr,
            daddr: Field::IpDaddr,
            original: CtKey::DstIp,
            reply: CtKey::SrcIp,
            vip: Ipv4Addr::new(10, 96, 0, 10).into(),
            here: Ipv4Addr::LOCALHOST.into(),
        },
        Words {
            family: Family::Ip6,
            saddr: Field::Ip6Saddr,
            daddr: Field::Ip6Daddr,
            original: CtKey::DstIp6,
            reply: CtKey::SrcIp6,
            vip: "fd00:96::a".parse::<Ipv6Addr>().unwrap().into(),
            here: Ipv6Addr::LOCALHOST.into(),
        },
    ]
}

impl Words {
    fn service(&self) -> [Field; 3] {
        [self.daddr, Field::L4Proto, Field::ThDport]
    }

    fn key(&self) -> KeyBuf {
        KeyBuf::new().address(self.vip).protocol(UDP).port(PORT)
    }

    /// Two endpoints behind the Service, one of which `choice` picks.
    fn table(&self, endpoints: &[UdpSocket; 2], choice: Source) -> Table {
        let slot = [self.daddr, Field::L4Proto, Field::ThDport, Field::Slot];
        let pick: Vec<Source> = self
            .service()
            .into_iter()
            .map(Source::Field)
            .chain([choice])
            .collect();
        let mut data = Set::map(&slot, &[self.daddr, Field::ThDport]).with_counters();
        for (slot, endpoint) in endpoints.iter().enumerate() {
            let address = endpoint.local_addr().unwrap();
            let to = KeyBuf::new().address(address.ip()).port(address.port());
            data.elements
                .insert(self.key().number(slot as u32).finish(), Element::data(to));
        }
        let services = Set::verdict_map(&self.service())
            .with_element(self.key(), Element::verdict(Verdict::goto("pick")));
        Table::new(self.family, "t")
            .with_set("services", services)
            .with_set("endpoints", data)
            .with_chain(
                "pick",
                Chain::regular().with_rule(Rule::new().dnat_map(
                    self.family,
                    &pick,
                    "endpoints",
                    true,
                )),
            )
            .with_chain(
                "output",
                Chain::base(ChainType::Nat, Hook::Output, priority::DSTNAT)
                    .with_rule(Rule::new().verdict_map(&self.service(), "services")),
            )
    }

    /// Opens `count` connections to the Service and tells how many each endpoint got. The clients
    /// are kept, because a port that is used again would be the same connection again.
    fn connect(
        &self,
        count: usize,
        endpoints: &[UdpSocket; 2],
        clients: &mut Vec<UdpSocket>,
    ) -> [usize; 2] {
        for _ in 0..count {
            let client = UdpSocket::bind((self.here, 0)).unwrap();
            client.send_to(b"x", (self.vip, PORT)).unwrap();
            clients.push(client);
        }
        let mut got = [0; 2];
        let deadline = Instant::now() + Duration::from_secs(5);
        while got.iter().sum::<usize>() < count && Instant::now() < deadline {
            for (endpoint, got) in endpoints.iter().zip(&mut got) {
                while endpoint.recv_from(&mut [0; 8]).is_ok() {
                    *got += 1;
                }
            }
        }
        assert_eq!(got.iter().sum::<usize>(), count, "packets were lost");
        got
    }
}

/// Brings the loopback link up and gives it the address of the Service.
fn own(vip: IpAddr) {
    let mut routes = RouteSocket::open().unwrap();
    let lo = routes.index_of("lo").unwrap();
    routes.set_up(lo).unwrap();
    let mut address = Address::new(lo, IpNetwork::from(vip));
    address.nodad = vip.is_ipv6();
    routes.add_address(&address).unwrap();
}

fn endpoints(here: IpAddr) -> [UdpSocket; 2] {
    [(); 2].map(|()| {
        let socket = UdpSocket::bind((here, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    })
}

#[test]
fn connections_are_spread_over_the_endpoints_as_the_rule_says() {
    for words in both() {
        in_netns(move || {
            own(words.vip);
            let endpoints = endpoints(words.here);
            let mut socket = NftSocket::open().unwrap();
            let mut clients = Vec::new();
            let mut spread = |choice| {
                install(&mut socket, &words.table(&endpoints, choice));
                words.connect(60, &endpoints, &mut clients)
            };
            let random = spread(Source::random(2));
            assert!(random.iter().all(|got| *got > 5), "{random:?}");
            assert_eq!(spread(Source::round_robin(2)), [30, 30]);
            let hashed = spread(Source::jhash(&[words.saddr], 2, Some(7)));
            assert!(hashed.contains(&60), "one client, one endpoint: {hashed:?}");
            let observed = observe(&mut socket, words.family, "t");
            let counters = observed.sets.get("endpoints").unwrap().elements.values();
            let counted: u64 = counters
                .map(|element| element.counter.unwrap().packets)
                .sum();
            assert_eq!(counted, 180, "each connection is counted once");
        });
    }
}

#[test]
fn a_client_is_remembered_with_its_endpoint_from_the_reply_tuple() {
    for words in both() {
        in_netns(move || {
            own(words.vip);
            let endpoints = endpoints(words.here);
            let mut socket = NftSocket::open().unwrap();
            let client = [words.saddr, words.daddr, Field::L4Proto, Field::ThDport];
            let memory = Set::map(&client, &[words.daddr, Field::ThDport]);
            let from = [
                Source::Field(words.saddr),
                Source::original(words.original),
                Field::L4Proto.into(),
                Source::original(CtKey::ProtoDst),
            ];
            let to = [Source::reply(words.reply), Source::reply(CtKey::ProtoSrc)];
            let hour = Some(Duration::from_secs(3600));
            let mut table = words
                .table(&endpoints, Source::random(2))
                .with_set("memory", memory.dynamic(100).with_timeouts())
                .with_chain(
                    "postrouting",
                    Chain::base(ChainType::Nat, Hook::Postrouting, priority::SRCNAT).with_rule(
                        Rule::new()
                            .l4proto(UDP)
                            .update_map("memory", &from, &to, hour),
                    ),
                );
            let recall = Rule::new().dnat_map(words.family, &client, "memory", true);
            table
                .chains
                .get_mut("pick")
                .unwrap()
                .rules
                .insert(0, recall);
            install(&mut socket, &table);
            let got = words.connect(40, &endpoints, &mut Vec::new());
            let chosen = got
                .iter()
                .position(|got| *got == 40)
                .expect("one endpoint has all");
            let observed = observe(&mut socket, words.family, "t");
            let memory = &observed.sets.get("memory").unwrap().elements;
            let known = KeyBuf::new()
                .address(words.here)
                .address(words.vip)
                .protocol(UDP)
                .port(PORT);
            let address = endpoints[chosen].local_addr().unwrap();
            let endpoint = KeyBuf::new()
                .address(address.ip())
                .port(address.port())
                .finish();
            assert_eq!(memory.len(), 1);
            assert_eq!(
                memory.get(&known.finish()).unwrap().value,
                Value::Data(endpoint)
            );
        });
    }
}

/// A pod with an address of its own and one that is not its own, behind a link of group 112.
fn pod(own: IpAddr, stolen: IpAddr, gateway: IpAddr) -> Netns {
    let netns = Netns::create_anonymous().unwrap();
    let mut routes = RouteSocket::open().unwrap();
    let veth = Veth {
        peer_netns: Some(&netns),
        group: 112,
        up: true,
        ..Veth::new("veth0", "eth0").unwrap()
    };
    let ends = routes.create_veth(&veth).unwrap();
    let address = |link, address: IpAddr| Address {
        nodad: address.is_ipv6(),
        ..Address::new(link, IpNetwork::from(address))
    };
    netns
        .enter(|| {
            let mut routes = RouteSocket::open().unwrap();
            routes.set_up(ends.peer_index).unwrap();
            for one in [own, stolen] {
                routes.add_address(&address(ends.peer_index, one)).unwrap();
            }
            let mut route = Route::to(IpNetwork::from(gateway));
            route.link = Some(ends.peer_index);
            routes.add_route(&route).unwrap();
        })
        .unwrap();
    routes.add_address(&address(ends.index, gateway)).unwrap();
    let mut route = Route::to(IpNetwork::from(own));
    route.link = Some(ends.index);
    routes.add_route(&route).unwrap();
    netns
}

#[test]
fn a_packet_with_a_source_that_is_not_behind_its_link_is_dropped() {
    let v4 = ["10.0.1.2", "10.0.1.9", "10.0.1.1"];
    let v6 = ["fd00:1::2", "fd00:1::9", "fd00:1::1"];
    for addresses in [v4, v6] {
        in_netns(move || {
            let [own, stolen, gateway] = addresses.map(|text| text.parse::<IpAddr>().unwrap());
            let pod = pod(own, stolen, gateway);
            let to_server = || Rule::new().iifgroup(112).l4proto(UDP);
            let table = Table::new(Family::Inet, "t").with_chain(
                "prerouting",
                Chain::base(ChainType::Filter, Hook::Prerouting, priority::RAW)
                    .with_rule(to_server().no_way_back().counter().drop())
                    .with_rule(to_server().counter()),
            );
            let mut socket = NftSocket::open().unwrap();
            install(&mut socket, &table);
            let server = UdpSocket::bind((gateway, 0)).unwrap();
            server
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let server_address = server.local_addr().unwrap();
            let send = |from: IpAddr| {
                let client = UdpSocket::bind((from, 0)).unwrap();
                client.send_to(b"x", server_address).unwrap();
            };
            pod.enter(|| [stolen, own, stolen].map(send)).unwrap();
            let (_, client) = server.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(client.ip(), own);
            await_counters(&mut socket, [2, 1]);
        });
    }
}

/// Packets on a link come when they come: waits until the two rules have counted so many.
fn await_counters(socket: &mut NftSocket, wanted: [u64; 2]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let table = observe(socket, Family::Inet, "t");
        let rules = &table.chains.get("prerouting").unwrap().rules;
        let counted: Vec<u64> = rules
            .iter()
            .flat_map(|rule| &rule.exprs)
            .filter_map(|expr| match expr {
                Expr::Counter(counter) => Some(counter.packets),
                _ => None,
            })
            .collect();
        if counted == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "counted {counted:?}, wanted {wanted:?}"
        );
        std::thread::yield_now();
    }
}
