//! Traffic control, as far as limiting a pod's bandwidth needs it.
//!
//! What goes **to** the pod leaves the host's end of the pod's link, so a token bucket ([`Shaping`])
//! as the root queue of that end limits it. What comes **from** the pod arrives there, and arriving
//! packets have no queue: they are redirected to an ifb link, whose root queue is a token bucket
//! again. `netlink-packet-route` has no token bucket, so the messages are written here.

use std::time::Duration;

use crate::netlink::{Message, attribute, attributes, nest};
use crate::netns::Netns;
use crate::request::{CREATE, REPLACE, Requests, RouteSocket};
use crate::{Cause, Result};

// linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
const TC_U32_TERMINAL: u8 = 1;
const TC_LINKLAYER_ETHERNET: u8 = 1;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// The handle of the ingress queue is always `ffff:`.
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The handle that we give a root queue: `1:`.
const ROOT_HANDLE: u32 = 0x0001_0000;
/// All protocols, in the byte order in which filters take it (linux/if_ether.h).
const ETH_P_ALL: u16 = 0x0003u16.to_be();
/// The kernel counts queue times in ticks of 64 ns (`PSCHED_SHIFT`, include/net/pkt_sched.h).
const TICK_NANOSECONDS: u64 = 64;
/// Size of `struct tcmsg` in bytes.
const HEADER: usize = 20;

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

    fn put_options(&self, body: &mut Vec<u8>) {
        // struct tc_tbf_qopt: rate, peak rate, limit, buffer, mtu
        let mut parameters = [0; 36];
        parameters[1] = TC_LINKLAYER_ETHERNET;
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
        parameters[24..28].copy_from_slice(&self.limit.to_ne_bytes());
        attribute(body, TCA_TBF_PARMS, &parameters);
        attribute(body, TCA_TBF_BURST, &self.burst.to_ne_bytes());
        if rate == u32::MAX {
            attribute(body, TCA_TBF_RATE64, &self.rate.to_ne_bytes());
        }
    }

    /// Reads the options of a token bucket. The kernel tells the burst as a time, so it may come
    /// back some bytes smaller than it was written.
    fn parse(options: &[u8]) -> Option<Self> {
        let find = |wanted| attributes(options).find(|(kind, _)| *kind == wanted);
        let parameters = find(TCA_TBF_PARMS)?.1.first_chunk::<36>()?;
        let word = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| parameters[at + i]);
            u32::from_ne_bytes([a, b, c, d])
        };
        let wide = find(TCA_TBF_RATE64).and_then(|(_, value)| value.first_chunk::<8>());
        let rate = wide.map_or(u64::from(word(8)), |value| u64::from_ne_bytes(*value));
        let nanoseconds = u128::from(word(28)) * u128::from(TICK_NANOSECONDS);
        let burst = u128::from(rate) * nanoseconds / 1_000_000_000;
        Some(Self {
            rate,
            burst: u32::try_from(burst).ok()?,
            limit: word(24),
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
    pub shaping: Option<Shaping>,
}

impl Qdisc {
    fn parse(payload: &[u8]) -> std::result::Result<Self, Cause> {
        let header = payload
            .first_chunk::<HEADER>()
            .ok_or_else(|| Cause::Malformed("a queue without a header".into()))?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (mut kind, mut options) = (String::new(), &[][..]);
        for (number, value) in attributes(&payload[HEADER..]) {
            match number {
                TCA_KIND => kind = crate::netlink::text(value),
                TCA_OPTIONS => options = value,
                _ => {}
            }
        }
        let shaping = if kind == "tbf" {
            Shaping::parse(options)
        } else {
            None
        };
        Ok(Self {
            link: word(4),
            kind,
            root: word(12) == TC_H_ROOT,
            shaping,
        })
    }
}

/// Appends a `struct tcmsg`.
fn put_header(body: &mut Vec<u8>, link: u32, handle: u32, parent: u32, info: u32) {
    body.extend_from_slice(&[0; 4]);
    for word in [link, handle, parent, info] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
}

impl Requests {
    /// Makes a token bucket the root queue of a link, in the place of what was there.
    pub fn shape(&mut self, link: u32, shaping: &Shaping) -> &mut Self {
        let object = format!("link number {link} to {} bytes/s", shaping.rate);
        self.push("limit", object, libc::RTM_NEWQDISC, REPLACE, |body| {
            put_header(body, link, ROOT_HANDLE, TC_H_ROOT, 0);
            attribute(body, TCA_KIND, b"tbf\0");
            nest(body, TCA_OPTIONS, |body| shaping.put_options(body));
        })
    }

    /// Gives a link its default root queue back.
    pub fn unshape(&mut self, link: u32) -> &mut Self {
        let object = format!("link number {link}");
        self.push("lift limit of", object, libc::RTM_DELQDISC, 0, |body| {
            put_header(body, link, 0, TC_H_ROOT, 0);
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
                put_header(body, from, INGRESS_HANDLE, TC_H_INGRESS, 0);
                attribute(body, TCA_KIND, b"ingress\0");
            },
        );
        self.push(
            "redirect arrivals of",
            object,
            libc::RTM_NEWTFILTER,
            CREATE,
            |body| {
                // The upper half of the last word is the priority, the lower one the protocol.
                put_header(
                    body,
                    from,
                    0,
                    INGRESS_HANDLE,
                    1 << 16 | u32::from(ETH_P_ALL),
                );
                attribute(body, TCA_KIND, b"u32\0");
                nest(body, TCA_OPTIONS, |body| put_match_all(body, to));
            },
        )
    }
}

/// The options of a u32 filter that matches everything and redirects it to the link `to`.
fn put_match_all(body: &mut Vec<u8>, to: u32) {
    // struct tc_u32_sel with one struct tc_u32_key that compares no bit.
    let mut selector = [0; 32];
    selector[0] = TC_U32_TERMINAL;
    selector[2] = 1;
    attribute(body, TCA_U32_SEL, &selector);
    nest(body, TCA_U32_ACT, |body| {
        // Actions are numbered from 1 in their order.
        nest(body, 1, |body| {
            attribute(body, TCA_ACT_KIND, b"mirred\0");
            nest(body, TCA_ACT_OPTIONS, |body| {
                // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
                let words = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to];
                attribute(
                    body,
                    TCA_MIRRED_PARMS,
                    words.map(u32::to_ne_bytes).as_flattened(),
                );
            });
        });
    });
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
                |body| put_header(body, link, 0, 0, 0),
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
