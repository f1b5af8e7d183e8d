//! What is read of the kernel's tables, and how changes get there.

use podwire_kernel::nft::{Batch, CommitError, Element, Family, Key, NftSocket, Set, Table};

use crate::features::services::table::delta::Change;
use crate::ours::SERVICES_TABLE as TABLE;

/// The Service tables of the kernel, or of a test.
pub trait Nftables {
    /// The table of a family with its chains, and its sets without elements; none if there is no
    /// such table.
    fn frame(&mut self, family: Family) -> podwire_kernel::Result<Option<Table>>;

    /// Hands all elements of a set to `each`.
    fn elements(
        &mut self,
        family: Family,
        set: &str,
        header: &Set,
        each: &mut dyn FnMut(Key, Element),
    ) -> podwire_kernel::Result<()>;

    /// One element of a set; none if it is not there.
    fn element(
        &mut self,
        family: Family,
        set: &str,
        header: &Set,
        key: &[u8],
    ) -> podwire_kernel::Result<Option<Element>>;

    /// Carries a batch out, all or nothing. `services` are the changes of Services in it.
    fn commit(&mut self, batch: &mut Batch, services: &[Change]) -> Result<(), CommitError>;
}

impl Nftables for NftSocket {
    fn frame(&mut self, family: Family) -> podwire_kernel::Result<Option<Table>> {
        self.observe_frame(family, TABLE)
    }

    fn elements(
        &mut self,
        family: Family,
        set: &str,
        header: &Set,
        each: &mut dyn FnMut(Key, Element),
    ) -> podwire_kernel::Result<()> {
        self.each_element(family, TABLE, set, header, each)
    }

    fn element(
        &mut self,
        family: Family,
        set: &str,
        header: &Set,
        key: &[u8],
    ) -> podwire_kernel::Result<Option<Element>> {
        NftSocket::element(self, family, TABLE, set, header, key)
    }

    fn commit(&mut self, batch: &mut Batch, services: &[Change]) -> Result<(), CommitError> {
        let outcome = NftSocket::commit(self, batch);
        if let Err(error) = &outcome {
            let first = services.first().map(|change| change.name.to_string());
            tracing::debug!(%error, ?first, services = services.len(), "a batch was refused");
        }
        outcome
    }
}

/// Why a sync did not finish.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel refused everything.
    #[error("cannot write table {family} {TABLE}")]
    Commit {
        /// The family of the table.
        family: Family,
        /// What the kernel said.
        source: CommitError,
    },
    /// The table could not be read.
    #[error(transparent)]
    Observe(#[from] podwire_kernel::Error),
}
