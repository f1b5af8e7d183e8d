//! What the kernel counts anyway, read at each scrape: connection tracking, and this process.

use std::fmt;
use std::fs;

use podwire_kernel::conntrack::Conntrack;
use podwire_kernel::conntrack::statistics::Statistics;
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
        if let Ok(statistics) = Conntrack::open().and_then(|mut socket| socket.statistics()) {
            encode_failures(statistics, &mut encoder)?;
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

/// Failures of connection tracking.
fn encode_failures(of: Statistics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    for (name, help, value) in [
        (
            "podwire_conntrack_insert_failed",
            "Packets dropped because two connections wanted the same entry",
            of.insert_failed,
        ),
        (
            "podwire_conntrack_drop",
            "Packets dropped because they could not be tracked (because the table is full, for example)",
            of.drop,
        ),
        (
            "podwire_conntrack_early_drop",
            "Connections forgotten to make room for new ones",
            of.early_drop,
        ),
    ] {
        let counter = ConstCounter::new(value);
        let encoder = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(encoder)?;
    }
    Ok(())
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
