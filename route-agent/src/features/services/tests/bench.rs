//! A table in the kernel of a test's own network namespace, with `nft` as the oracle.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{self, Batch, CommitError, NftSocket};

use crate::config::services::Config;
use crate::features::parts::log::Logging;
use crate::features::services::desired::endpoints::Here;
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::samples::{named_service, object, slice_of};
use crate::features::services::table::delta::Change;
use crate::features::services::table::nftables::{Nftables, TableError};
use crate::features::services::table::state::{Done, View};
use crate::features::services::table::sync::FamilyTable;
use crate::features::services::tests::golden_cases::{NODE, cluster, node};
use crate::snapshot::{Dirty, Object, ObjectName, Protocol, Snapshot};

/// Runs a test in a network namespace of its own, on a thread of its own.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        podwire_kernel::netns::unshare_thread().unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `nft` in the namespace of this thread; the text that it prints.
pub fn nft(arguments: &str) -> String {
    let output = Command::new("nft")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "nft {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A cluster, and the table of one family in the kernel of this thread's namespace.
pub struct Bench {
    pub snapshot: Snapshot,
    pub config: Config,
    pub table: FamilyTable,
    pub kernel: Kernel,
    pub dirty: Dirty,
}

/// The kernel, which can be made to refuse batches about a Service.
pub struct Kernel {
    pub socket: NftSocket,
    pub refuse: Option<&'static str>,
}

impl Nftables for Kernel {
    fn frame(&mut self, family: nft::Family) -> podwire_kernel::Result<Option<nft::Table>> {
        self.socket.frame(family)
    }

    fn elements(
        &mut self,
        family: nft::Family,
        set: &str,
        header: &nft::Set,
        each: &mut dyn FnMut(nft::Key, nft::Element),
    ) -> podwire_kernel::Result<()> {
        self.socket.elements(family, set, header, each)
    }

    fn element(
        &mut self,
        family: nft::Family,
        set: &str,
        header: &nft::Set,
        key: &[u8],
    ) -> podwire_kernel::Result<Option<nft::Element>> {
        Nftables::element(&mut self.socket, family, set, header, key)
    }

    fn commit(&mut self, batch: &mut Batch, services: &[Change]) -> Result<(), CommitError> {
        let refused = self.refuse.map(object);
        if services
            .iter()
            .any(|change| Some(&change.name) == refused.as_ref())
        {
            let full = podwire_kernel::Cause::System { errno: 28 };
            return Err(CommitError::Failed(full));
        }
        Nftables::commit(&mut self.socket, batch, services)
    }
}

impl Bench {
    pub fn new(family: IpFamily) -> Bench {
        Bench::with(family, Config::default())
    }

    pub fn with(family: IpFamily, config: Config) -> Bench {
        let kernel = Kernel {
            socket: NftSocket::open().unwrap(),
            refuse: None,
        };
        let table = FamilyTable::new(family, &config);
        Bench {
            snapshot: cluster(),
            config,
            table,
            kernel,
            dirty: Dirty::default(),
        }
    }

    pub fn set(&mut self, object: Object) {
        self.snapshot
            .apply(crate::snapshot::Change::Set(object), &mut self.dirty);
    }

    pub fn gone(&mut self, name: &str) {
        let key = crate::snapshot::Key::Service(object(name));
        self.snapshot
            .apply(crate::snapshot::Change::Gone(key), &mut self.dirty);
    }

    pub fn node(&mut self, name: &str, pods: &str, address: &str) {
        self.set(node(name, pods, address));
    }

    pub fn family(&self) -> IpFamily {
        self.table.family()
    }

    pub fn service(&mut self, name: &str, text: &str) {
        self.set(Object::Service(named_service(name, text)));
    }

    /// Endpoints of the unnamed TCP port of a Service, at port 80.
    pub fn endpoints(&mut self, name: &str, endpoints: &str) {
        self.slice(name, &[("", Protocol::Tcp, 80)], endpoints);
    }

    pub fn slice(&mut self, name: &str, ports: &[(&str, Protocol, u16)], endpoints: &str) {
        self.set(Object::EndpointSlice(slice_of(
            name,
            &format!("{name}-1"),
            ports,
            endpoints,
        )));
    }

    pub fn try_sync_at(&mut self, now: Instant) -> Result<Done, TableError> {
        let dirty = std::mem::take(&mut self.dirty);
        let names: BTreeSet<ObjectName> = dirty.services.union(&dirty.endpoints).cloned().collect();
        let own = self.snapshot.nodes.get(NODE);
        let externals = Externals::desired(&self.snapshot, &self.config.external_ips, []);
        let view = View {
            snapshot: &self.snapshot,
            own,
            here: Here::of(NODE, &self.snapshot, None),
            config: &self.config,
            logging: Logging::On,
            externals: &externals,
        };
        let networks = !dirty.nodes.is_empty() || dirty.service_cidrs;
        self.table
            .sync(&mut self.kernel, view, &names, networks, now)
    }

    pub fn sync(&mut self) -> Done {
        self.try_sync_at(Instant::now()).unwrap()
    }

    /// As [`Bench::sync`], later: what nothing refers to is deleted.
    pub fn sync_later(&mut self) -> Done {
        self.try_sync_at(Instant::now() + Duration::from_secs(5))
            .unwrap()
    }

    pub fn differences(&mut self) -> Vec<String> {
        let own = self.snapshot.nodes.get(NODE);
        let view = View {
            snapshot: &self.snapshot,
            own,
            here: Here::default(),
            config: &self.config,
            logging: Logging::On,
            externals: &Externals::desired(&self.snapshot, &self.config.external_ips, []),
        };
        self.table.differences(&mut self.kernel.socket, view)
    }

    /// Another agent starts over what the kernel holds; the number of batches that it sends.
    pub fn restart(&mut self) -> u64 {
        self.table = FamilyTable::new(self.table.family(), &self.config);
        self.sync().batches
    }
}
