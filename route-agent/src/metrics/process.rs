//! What the kernel counts anyway, read at each scrape: connection tracking, and this process.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the kernel's own numbers.
#[derive(Debug)]
pub(super) struct Kernel;

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let read = |path: &str| fs::read_to_string(path).ok();
        if let Some(stat) = read("/proc/net/stat/nf_conntrack")
            .as_deref()
            .and_then(conntrack)
        {
            stat.encode(&mut encoder)?;
        }
        for (name, help, path) in [
            (
                "podwire_conntrack_entries",
                "Connections that are tracked",
                "nf_conntrack_count",
            ),
            (
                "podwire_conntrack_limit",
                "Connections that can be tracked",
                "nf_conntrack_max",
            ),
        ] {
            let number = read(&format!("/proc/sys/net/netfilter/{path}"));
            if let Some(number) = number.and_then(|text| text.trim().parse::<i64>().ok()) {
                gauge(&mut encoder, name, help, number)?;
            }
        }
        if let Some(process) = read("/proc/self/stat").as_deref().and_then(Process::parse) {
            process.encode(&mut encoder)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    gauge.encode(encoder)
}

/// Failures of connection tracking, of all CPUs together.
#[derive(Debug, PartialEq, Eq)]
struct Conntrack {
    insert_failed: u64,
    drop: u64,
    early_drop: u64,
}

/// Adds up the table of `/proc/net/stat/nf_conntrack`: a header, then a line of hexadecimal
/// numbers per CPU (`ct_cpu_seq_show`, net/netfilter/nf_conntrack_standalone.c).
fn conntrack(table: &str) -> Option<Conntrack> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let sum = |name: &str| {
        let column = names.iter().position(|found| *found == name)?;
        let mut sum = 0u64;
        for line in lines.clone() {
            let number = line.split_whitespace().nth(column)?;
            sum = sum.wrapping_add(u64::from_str_radix(number, 16).ok()?);
        }
        Some(sum)
    };
    Some(Conntrack {
        insert_failed: sum("insert_failed")?,
        drop: sum("drop")?,
        early_drop: sum("early_drop")?,
    })
}

impl Conntrack {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in [
            (
                "podwire_conntrack_insert_failed",
                "Packets dropped because two connections wanted the same entry",
                self.insert_failed,
            ),
            (
                "podwire_conntrack_drop",
                "Packets dropped because they could not be tracked (because the table is full, for example)",
                self.drop,
            ),
            (
                "podwire_conntrack_early_drop",
                "Connections forgotten to make room for new ones",
                self.early_drop,
            ),
        ] {
            let counter = ConstCounter::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(encoder)?;
        }
        Ok(())
    }
}

/// This process, under the names that every Prometheus client has.
#[derive(Debug, PartialEq)]
struct Process {
    cpu_ticks: u64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl Process {
    /// Parses `/proc/self/stat` (proc_pid_stat(5)). The name of the program may hold anything, so
    /// fields are counted from its closing parenthesis: field 3 is the first behind it.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        Some(Self {
            cpu_ticks: field(14)?.parse::<u64>().ok()? + field(15)?.parse::<u64>().ok()?,
            virtual_bytes: field(23)?.parse().ok()?,
            resident_pages: field(24)?.parse().ok()?,
        })
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // USER_HZ is 100 on every architecture that Linux still supports but alpha.
        let cpu = ConstCounter::new(self.cpu_ticks as f64 / 100.0);
        let help = "User and system time of this process";
        let descriptor =
            encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?;
        cpu.encode(descriptor)?;
        let page = page_size();
        let (resident, size) = (self.resident_pages.saturating_mul(page), self.virtual_bytes);
        gauge(
            encoder,
            "process_resident_memory_bytes",
            "Memory in use",
            resident,
        )?;
        gauge(
            encoder,
            "process_virtual_memory_bytes",
            "Memory mapped",
            size,
        )
    }
}

fn page_size() -> i64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_conntrack_is_summed_over_cpus_by_name() {
        let table = "entries  clashres found new invalid ignore delete chainlength insert \
                     insert_failed drop early_drop icmp_error  expect_new expect_create\n\
                     00000010  00000000 00000001 0 0 0 0 00000000 0 0000000a 00000001 0 0 0 0\n\
                     00000010  00000000 00000001 0 0 0 0 00000000 0 00000010 00000000 2 0 0 0\n";
        assert_eq!(
            conntrack(table),
            Some(Conntrack {
                insert_failed: 26,
                drop: 1,
                early_drop: 2
            })
        );
        assert_eq!(conntrack(""), None);
        assert_eq!(conntrack("entries insert_failed drop\n0 0 0\n"), None);
        assert_eq!(conntrack("insert_failed drop early_drop\nzz 0 0\n"), None);
    }

    #[test]
    fn the_name_of_the_program_does_not_confuse_the_numbers() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 9 4096 3 18446744";
        assert_eq!(
            Process::parse(stat),
            Some(Process {
                cpu_ticks: 200,
                virtual_bytes: 4096,
                resident_pages: 3
            })
        );
        assert_eq!(Process::parse("7 (a) S 1"), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(Process::parse(&own).unwrap().resident_pages > 100);
    }
}
