//! The addresses of Nodes, kept while a rule asks about Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Model, Work};
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::id_set::IdSet;
use crate::features::policies::desired::node_addresses::NodeAddresses;
use crate::snapshot::Snapshot;

impl Model {
    /// Notes which addresses Nodes have now.
    pub(super) fn move_nodes(&mut self, snapshot: &Snapshot, changed: &Changed, work: &mut Work) {
        let Some(nodes) = &mut self.nodes else {
            return;
        };
        for name in &changed.nodes {
            let node = snapshot.nodes.get(name);
            work.addresses.extend(nodes.set(name, node, self.family));
        }
    }

    /// Rules ask about Nodes now that did not, or no longer.
    pub(super) fn look_at_nodes(&mut self, snapshot: &Snapshot, work: &mut Work) {
        if !self.atoms.ask_about_nodes() {
            let nodes = self.nodes.take();
            let addresses = nodes.iter().flat_map(NodeAddresses::addresses);
            work.addresses.extend(addresses);
            return;
        }
        let family = self.family;
        let all = || NodeAddresses::all(snapshot, family);
        let nodes = self.nodes.get_or_insert_with(all);
        work.addresses.extend(nodes.addresses());
    }

    /// What the Nodes with an address answer with yes, and the name of one.
    pub(super) fn node_atoms(
        &self,
        snapshot: &Snapshot,
        address: IpAddr,
    ) -> (IdSet, Option<&Arc<str>>) {
        let nodes = self.nodes.as_ref();
        let names = nodes.and_then(|nodes| nodes.names(address));
        let nodes = names.into_iter().flatten();
        let nodes = nodes.filter_map(|name| snapshot.nodes.get(name));
        let mut atoms = IdSet::default();
        for node in nodes {
            atoms.extend(self.atoms.of_node(node).iter());
        }
        (atoms, names.and_then(|names| names.first()))
    }
}
