//! What went wrong in connection tracking, as the kernel counts it.

use super::{Conntrack, SUBSYSTEM, put_header};
use crate::netlink::{Batch, Message};
use crate::nft::wire::{find, u32_of};
use crate::{Cause, Error};

/// `IPCTNL_MSG_CT_GET_STATS_CPU` and its attributes (linux/netfilter/nfnetlink_conntrack.h).
const GET: u16 = SUBSYSTEM << 8 | 4;
const INSERT_FAILED: u16 = 9;
const DROP: u16 = 10;
const EARLY_DROP: u16 = 11;

/// What went wrong in connection tracking so far, on all processors together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets dropped because two connections wanted the same entry.
    pub insert_failed: u64,
    /// Packets dropped because they could not be tracked, as the table was full, for example.
    pub drop: u64,
    /// Connections forgotten to make room for new ones.
    pub early_drop: u64,
}

impl Statistics {
    /// Adds what one processor has counted (`ctnetlink_ct_stat_cpu_fill_info`, nf_conntrack_netlink.c).
    fn add(&mut self, message: Message<'_>) -> Result<(), Cause> {
        let bytes = message.payload.get(4..).unwrap_or_default();
        for (kind, sum) in [
            (INSERT_FAILED, &mut self.insert_failed),
            (DROP, &mut self.drop),
            (EARLY_DROP, &mut self.early_drop),
        ] {
            *sum += u64::from(find(bytes, kind).map_or(Ok(0), u32_of)?);
        }
        Ok(())
    }
}

impl Conntrack {
    /// What went wrong so far. `/proc/net/stat/nf_conntrack` says the same, but not every kernel has it:
    /// Ubuntu's are built without `CONFIG_NF_CONNTRACK_PROCFS`.
    pub fn statistics(&mut self) -> Result<Statistics, Error> {
        let mut all = Statistics::default();
        let mut batch = Batch::new();
        batch.push(GET, libc::NLM_F_DUMP as u16, |out| {
            put_header(out, None, 0);
        });
        self.socket
            .read_dump(&mut batch, &mut |message| all.add(message))
            .map_err(|cause: Cause| {
                cause.during("read the statistics of", "connection tracking")
            })?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::wire::put;

    #[test]
    fn what_each_processor_has_counted_is_added_up() {
        let mut all = Statistics::default();
        let mut add = |numbers: &[(u16, &[u8])]| {
            let mut payload = vec![0; 4];
            for (kind, number) in numbers {
                put(&mut payload, *kind, number);
            }
            let [kind, flags] = [GET, 0];
            all.add(Message {
                kind,
                flags,
                sequence: 1,
                port: 1,
                payload: &payload,
            })?;
            Ok::<_, Cause>(all)
        };
        // Those that are found come first, and others behind.
        add(&[(2, &[0, 0, 9, 9]), (9, &[0, 0, 1, 2]), (10, &[0, 0, 0, 1])]).unwrap();
        let sum = add(&[(9, &[0, 1, 0, 0]), (11, &[0, 0, 0, 2]), (12, &[9; 4])]);
        let expected = Statistics {
            insert_failed: 0x1_0102,
            drop: 1,
            early_drop: 2,
        };
        assert_eq!(sum.unwrap(), expected);
        assert!(add(&[(9, &[1, 2])]).is_err());
    }
}
