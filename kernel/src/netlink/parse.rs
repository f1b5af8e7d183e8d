//! Splitting what the kernel sent into messages.

use std::net::IpAddr;

use super::batch::{HEADER, align};
use crate::Cause;

/// Extended ACK attribute with the kernel's own words (linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Extended ACK attribute with the place in the request that the kernel objects to.
const NLMSGERR_ATTR_OFFS: u16 = 2;
/// `NLM_F_CAPPED`: the request is not repeated behind the error (linux/netlink.h).
const NLM_F_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: attributes follow (linux/netlink.h).
const NLM_F_ACK_TLVS: u16 = 0x200;

/// The kernel's "no" to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which message of the batch it was, counted from 0.
    pub index: usize,
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own explanation, if it gave one.
    pub explanation: Option<String>,
    /// The place in the message that it objects to, in bytes from the header's start, if it said.
    pub offset: Option<usize>,
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        Self::Refused {
            errno: refusal.errno,
            explanation: refusal.explanation,
        }
    }
}

/// A netlink message as received.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: the number of the request that this answers; 0 in notifications.
    pub sequence: u32,
    /// `nlmsg_pid`: the port of the socket whose request caused this; 0 for the kernel itself.
    pub port: u32,
    /// Everything behind the header, without padding.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// What a message of type `NLMSG_ERROR` (or the status in a `NLMSG_DONE`) says: `None` is
    /// success. `index` is put into the refusal.
    pub(crate) fn refusal(&self, index: usize) -> Result<Option<Refusal>, Cause> {
        let Some(code) = self.payload.first_chunk::<4>() else {
            // The kernel may end a dump with an empty NLMSG_DONE.
            return if i32::from(self.kind) == libc::NLMSG_DONE {
                Ok(None)
            } else {
                Err(Cause::Malformed("an acknowledgement without a code".into()))
            };
        };
        let code = i32::from_ne_bytes(*code);
        if code >= 0 {
            return Ok(None);
        }
        Ok(Some(Refusal {
            index,
            // The smallest number has no positive one.
            errno: code.saturating_neg(),
            explanation: self.explanation(),
            offset: self.offset(),
        }))
    }

    /// The text of the extended ACK, if there is one.
    fn explanation(&self) -> Option<String> {
        attributes(self.extension()?)
            .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
            .map(|(_, value)| text(value))
    }

    /// The place in the request that the extended ACK names, if it does.
    fn offset(&self) -> Option<usize> {
        let (_, value) =
            attributes(self.extension()?).find(|(kind, _)| *kind == NLMSGERR_ATTR_OFFS)?;
        Some(u32::from_ne_bytes(*value.first_chunk()?) as usize)
    }

    /// The attributes of the extended ACK.
    fn extension(&self) -> Option<&[u8]> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        if i32::from(self.kind) == libc::NLMSG_DONE {
            return self.payload.get(4..);
        }
        let original = self.payload.get(4..)?;
        let length = u32::from_ne_bytes(*original.first_chunk::<4>()?) as usize;
        let skip = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            align(length)
        };
        original.get(skip..)
    }
}

/// The messages of one datagram. Ends with an error if a length does not fit.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Cause>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let split = split(datagram);
        datagram = split.as_ref().map_or(&[][..], |(_, rest)| rest);
        Some(split.map(|(message, _)| message))
    })
}

fn split(datagram: &[u8]) -> Result<(Message<'_>, &[u8]), Cause> {
    let header = datagram
        .first_chunk::<HEADER>()
        .ok_or_else(|| Cause::Malformed(format!("{} bytes without a header", datagram.len())))?;
    let word = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let length = word(0) as usize;
    let payload = datagram.get(HEADER..length).ok_or_else(|| {
        Cause::Malformed(format!(
            "a message of {length} bytes in {} bytes",
            datagram.len()
        ))
    })?;
    let message = Message {
        kind: half(4),
        flags: half(6),
        sequence: word(8),
        port: word(12),
        payload,
    };
    Ok((message, datagram.get(align(length)..).unwrap_or(&[])))
}

/// The attributes in `bytes` as (type without flags, value); stops at the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The two top bits are NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// A string attribute without its terminating zero.
pub fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A number attribute; `None` if it is too short.
pub fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// An address attribute; `None` if it has neither 4 nor 16 bytes.
pub fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}
