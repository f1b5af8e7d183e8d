//! Traffic control, as far as limiting a pod's bandwidth needs it.
//!
//! What goes **to** the pod leaves the host's end of the pod's link, so a token bucket ([`Shaping`])
//! as the root queue of that end limits it. What comes **from** the pod arrives there, and arriving
//! packets have no queue: they are redirected to an ifb link, whose root queue is a token bucket
//! again. `netlink-packet-route` has no token bucket, so its options are written and read here.

use std::time::Duration;

use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage,
    TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use crate::netlink::{Message, attributes, text};
use crate::netns::Netns;
use crate::request::{CREATE, REPLACE, Requests, RouteSocket};
use crate::{Cause, Result, packet};

// linux/rtnetlink.h, linux/pkt_sched.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// The handle of the ingress queue is always `ffff:`.
const INGRESS_HANDLE: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};
/// The handle that we give a root queue: `1:`.
const ROOT_HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
/// All protocols, in the byte order in which filters take it (linux/if_ether.h).
const ETH_P_ALL: u16 = 0x0003u16.to_be();
/// The kernel counts queue times in ticks of 64 ns (`PSCHED_SHIFT`, include/net/pkt_sched.h).
const TICK_NANOSECONDS: u64 = 64;
/// Rounded up.
const TICKS_OF_MICROSECOND: u128 = 16;

/// A token bucket as the root queue of a link (tc-tbf(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaping {
    /// Bytes per second in the long run; more than 0.
    pub rate: u64,
    /// Bytes that may be sent at once; at least the MTU, or larger packets never pass.
    pub burst: u32,
    /// How many bytes may wait; what comes then is dropped.
    pub limit: u32,
}

impl Shaping {
    /// A token bucket in which a packet waits at most `latency`.
    pub fn with_latency(rate: u64, burst: u32, latency: Duration) -> Self {
        let waiting = u128::from(rate) * latency.as_micros() / 1_000_000 + u128::from(burst);
        Self {
            rate,
            burst,
            limit: u32::try_from(waiting).unwrap_or(u32::MAX),
        }
    }

    fn options(&self) -> Vec<TcOption> {
        // struct tc_tbf_qopt: rate, peak rate, limit, buffer, mtu
        let mut parameters = [0; 36];
        parameters[1] = TC_LINKLAYER_ETHERNET;
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
        parameters[24..28].copy_from_slice(&self.limit.to_ne_bytes());
        let mut options = vec![
            DefaultNla::new(TCA_TBF_PARMS, parameters.to_vec()),
            packet::number(TCA_TBF_BURST, self.burst),
        ];
        if rate == u32::MAX {
            let wide = self.rate.to_ne_bytes().to_vec();
            options.push(DefaultNla::new(TCA_TBF_RATE64, wide));
        }
        options.into_iter().map(TcOption::Other).collect()
    }

    /// How long the burst takes at the rate, in the ticks of the kernel.
    fn burst_ticks(&self) -> u128 {
        let nanoseconds = u128::from(self.burst) * 1_000_000_000 / u128::from(self.rate.max(1));
        nanoseconds / u128::from(TICK_NANOSECONDS)
    }
}

/// A token bucket as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes per second in the long run.
    pub rate: u64,
    /// How many bytes may wait.
    pub limit: u32,
    /// How long the burst takes at the rate, in ticks. The kernel tells the lower 32 bits of it
    /// (`tbf_dump`, net/sched/sch_tbf.c): after 275 seconds it starts again from 0.
    burst: u32,
}

impl Bucket {
    /// Whether the burst is that of `wanted`, which has the same rate, as far as the kernel tells.
    pub fn has_burst_of(&self, wanted: &Shaping) -> bool {
        let ticks = wanted.burst_ticks();
        // The kernel multiplies by a number of 31 bits (`psched_ratecfg_precompute`); tc and the
        // reference plugin count in microseconds. Neither matters as much as an eighth.
        let rounded = (ticks / 8).min(TICKS_OF_MICROSECOND) + (ticks >> 30) + 1;
        let difference = (ticks as u32).wrapping_sub(self.burst) as i32;
        u128::from(difference.unsigned_abs()) <= rounded
    }

    fn parse(options: &[u8]) -> Option<Self> {
        let find = |wanted| attributes(options).find(|(kind, _)| *kind == wanted);
        let parameters = find(TCA_TBF_PARMS)?.1.first_chunk::<36>()?;
        let word = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| parameters[at + i]);
            u32::from_ne_bytes([a, b, c, d])
        };
        let wide = find(TCA_TBF_RATE64).and_then(|(_, value)| value.first_chunk::<8>());
        Some(Self {
            rate: wide.map_or(u64::from(word(8)), |value| u64::from_ne_bytes(*value)),
            limit: word(24),
            burst: word(28),
        })
    }
}

/// A queueing discipline as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// The link.
    pub link: u32,
    /// `tbf`, `ingress`, `noqueue` and so on.
    pub kind: String,
    /// Whether it is the root queue.
    pub root: bool,
    /// The numbers, if it is a token bucket.
    pub shaping: Option<Bucket>,
}

impl Qdisc {
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Self, Cause> {
        let header = TcHeader::parse(payload).map_err(packet::malformed)?;
        let (mut kind, mut options) = (String::new(), &[][..]);
        for (number, value) in attributes(packet::behind_header(payload, header.buffer_len())) {
            match number {
                TCA_KIND => kind = text(value),
                TCA_OPTIONS => options = value,
                _ => {}
            }
        }
        let shaping = if kind == "tbf" {
            Bucket::parse(options)
        } else {
            None
        };
        Ok(Self {
            link: header.index as u32,
            kind,
            root: header.parent == TcHandle::ROOT,
            shaping,
        })
    }
}

/// A message about a queue or a filter of the link `link`.
fn message(link: u32, handle: TcHandle, parent: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::default();
    // The kernel's type is signed, and its numbers are positive.
    message.header.index = link as i32;
    message.header.handle = handle;
    message.header.parent = parent;
    message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
    message
}

impl Requests {
    /// Makes a token bucket the root queue of a link, in the place of what was there.
    pub fn shape(&mut self, link: u32, shaping: &Shaping) -> &mut Self {
        let object = format!("link number {link} to {} bytes/s", shaping.rate);
        self.push("limit", object, libc::RTM_NEWQDISC, REPLACE, |body| {
            let mut queue = message(link, ROOT_HANDLE, TcHandle::ROOT, "tbf");
            queue
                .attributes
                .push(TcAttribute::Options(shaping.options()));
            packet::put(body, &queue);
        })
    }

    /// Sends everything that arrives at the link `from` through the queue of the link `to`
    /// instead. The packets come back to `from` behind that queue, if `to` is an ifb link.
    pub fn redirect_arriving(&mut self, from: u32, to: u32) -> &mut Self {
        let object = format!("link number {from}");
        self.push(
            "queue arrivals of",
            object.clone(),
            libc::RTM_NEWQDISC,
            CREATE,
            |body| {
                let queue = message(from, INGRESS_HANDLE, TcHandle::INGRESS, "ingress");
                packet::put(body, &queue);
            },
        );
        self.push(
            "redirect arrivals of",
            object,
            libc::RTM_NEWTFILTER,
            CREATE,
            |body| {
                let kind = TcFilterU32::KIND;
                let mut filter = message(from, TcHandle::UNSPEC, INGRESS_HANDLE, kind);
                // The upper half is the priority, the lower one the protocol.
                filter.header.info = 1 << 16 | u32::from(ETH_P_ALL);
                filter.attributes.push(TcAttribute::Options(match_all(to)));
                packet::put(body, &filter);
            },
        )
    }
}

/// The options of a u32 filter that matches everything and redirects it to the link `to`.
fn match_all(to: u32) -> Vec<TcOption> {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    // One key, which compares no bit.
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    // Actions are numbered from 1 in their order.
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(vec![action])),
    ]
}

impl RouteSocket {
    /// The queueing disciplines of the link `link`.
    pub fn qdiscs(&mut self, link: u32) -> Result<Vec<Qdisc>> {
        let wanted = |answer: Message<'_>| {
            let qdisc = Qdisc::parse(answer.payload)?;
            // Kernels list all links, whatever the request says (`tc_dump_qdisc`).
            Ok(Some(qdisc).filter(|qdisc| qdisc.link == link))
        };
        self.socket
            .dump(
                libc::RTM_GETQDISC,
                |body| {
                    let mut query = TcMessage::default();
                    query.header.index = link as i32;
                    packet::put(body, &query);
                },
                wanted,
            )
            .map_err(|cause| cause.during("list queues of", format!("link number {link}")))
    }
}

/// Tries everything that limiting bandwidth needs, in a namespace that is thrown away. The error
/// names the part that this kernel cannot do.
pub fn probe() -> Result<()> {
    let netns = Netns::create_anonymous()?;
    let mut socket = RouteSocket::open_in(&netns)?;
    let ifb = socket.create_ifb("ifb-probe")?;
    let mut requests = Requests::new();
    // Any link will do for the redirection: a second ifb.
    let other = socket.create_ifb("ifb-probe2")?;
    requests.shape(
        ifb,
        &Shaping {
            rate: 1_000_000,
            burst: 100_000,
            limit: 200_000,
        },
    );
    requests.redirect_arriving(other, ifb);
    socket.run(&mut requests)
}
