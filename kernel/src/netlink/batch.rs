//! Messages written one after the other into one buffer, for one `sendmsg`.

/// Size of `struct nlmsghdr` in bytes (linux/netlink.h).
pub(super) const HEADER: usize = 16;

/// Netlink messages and attributes start at multiples of four bytes (linux/netlink.h).
pub(super) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Netlink messages in one buffer, in the order in which the kernel carries them out.
///
/// Sequence numbers are filled in when the batch is sent.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    /// A batch without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a message of type `kind` with the flags `flags` (`NLM_F_*`; `NLM_F_REQUEST` is
    /// always added) whose body `body` appends to the buffer. `body` must only append.
    pub fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.resize(start + HEADER, 0);
        body(&mut self.bytes);
        let length = self.bytes.len() - start;
        self.bytes.resize(start + align(length), 0);
        // A message never comes near 4 GiB: it must fit into the send buffer of a socket.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let flags = flags | libc::NLM_F_REQUEST as u16;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// All messages as they will be sent, in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The message number `index`, with its header and its padding.
    pub(crate) fn message(&self, index: usize) -> Option<&[u8]> {
        let start = *self.starts.get(index)?;
        let end = self
            .starts
            .get(index + 1)
            .copied()
            .unwrap_or(self.bytes.len());
        self.bytes.get(start..end)
    }

    /// Removes the last message.
    pub(crate) fn pop(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.bytes.truncate(start);
        }
    }

    /// Removes all messages and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Asks for an acknowledgement of the message number `index`. The kernel reports failures
    /// without being asked (`netlink_rcv_skb`, net/netlink/af_netlink.c).
    pub fn acknowledge(&mut self, index: usize) {
        let at = self.starts[index] + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        let flags = flags | libc::NLM_F_ACK as u16;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    /// Gives the messages the sequence numbers `first`, `first + 1`, and so on.
    pub(crate) fn number(&mut self, first: u32) {
        for (index, start) in self.starts.iter().enumerate() {
            // Numbers wrap around; only their distance matters.
            let sequence = first.wrapping_add(index as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    /// The bytes to send.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
