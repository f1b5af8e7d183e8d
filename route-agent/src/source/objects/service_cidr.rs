//! ServiceCIDRs.

use serde::Deserialize;

use crate::snapshot;
use crate::source::objects::{Checker, Metadata, Names, Text, Unnamed, nullable};

/// A ServiceCIDR.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// Its name.
    pub metadata: Metadata,
    /// Its networks.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceCidrSpec,
}

/// What Podwire reads of a ServiceCIDR's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// The networks.
    #[serde(deserialize_with = "nullable")]
    pub cidrs: Vec<Text>,
}

impl ServiceCidr {
    /// The snapshot's value of this ServiceCIDR.
    pub fn into_snapshot(self, names: &mut Names) -> Result<snapshot::ServiceCidr, Unnamed> {
        let mut checker = Checker::default();
        let cidrs = &self.spec.cidrs;
        Ok(snapshot::ServiceCidr {
            name: self.metadata.cluster_name(names)?,
            cidrs: cidrs
                .iter()
                .filter_map(|t| checker.cidr("spec.cidrs", t))
                .collect(),
            invalid: checker.invalid,
        })
    }
}
