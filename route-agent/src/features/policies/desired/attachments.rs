//! The attachments of this node: which pod has which address here, as the plugin and the kernel say.
//!
//! The API says it later, in `status.podIPs`, and says it still when the pod's link is gone. So where
//! an attachment is known, it counts: a Pod has the addresses of its newest one, and an address is
//! the Pod's whose attachment has it. What has no Pod here (a container of another runtime, or one
//! that the API has not told of yet) is open as long as no policy can be about it. Of a pod whose name
//! has no room in its link's alias only the API says which it is, and until then it is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwire::policy::{Attachment, POD_IFNAME};
use podwire_kernel::IpFamily;

use crate::snapshot::{ObjectName, Pod, Snapshot, Uid};

/// All of them.
#[derive(Debug, Default)]
pub struct Attachments {
    by_link: BTreeMap<Box<str>, Known>,
    /// The links of each pod, the newest last.
    by_pod: BTreeMap<ObjectName, Vec<Box<str>>>,
    /// The newest link with each address.
    by_address: BTreeMap<IpAddr, Box<str>>,
    /// Pods whose attachment went, and what their status may still say.
    vacated: BTreeMap<ObjectName, Vacated>,
}

/// An attachment, and the Pod that it names.
#[derive(Debug)]
struct Known {
    attachment: Attachment,
    pod: Option<ObjectName>,
}

#[derive(Debug)]
struct Vacated {
    uid: Option<Box<str>>,
    addresses: Vec<IpAddr>,
}

/// Whom a change of attachments concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Pods that may have an address now, or another one, or none.
    pub pods: BTreeSet<ObjectName>,
    /// Addresses that may be another's now.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that no attachment has any more.
    pub left: BTreeSet<IpAddr>,
}

impl Touched {
    fn note(&mut self, known: &Known) {
        self.pods.extend(known.pod.clone());
        self.addresses.extend(&known.attachment.addresses);
    }
}

impl Attachments {
    /// An attachment came; `touched` learns whom that concerns.
    pub fn came(&mut self, attachment: Attachment, touched: &mut Touched) {
        if self.has(&attachment) {
            return;
        }
        self.forget(&attachment.link.clone(), touched);
        let known = Known {
            pod: pod_name(&attachment),
            attachment,
        };
        touched.note(&known);
        let link: Box<str> = known.attachment.link.as_str().into();
        for address in &known.attachment.addresses {
            self.by_address.insert(*address, link.clone());
        }
        if let Some(pod) = &known.pod {
            // Of another Pod of that name the API may still tell the old address.
            let same = |vacated: &Vacated| vacated.uid.as_deref() == uid(&known.attachment);
            if self.vacated.get(pod).is_some_and(same) {
                self.vacated.remove(pod);
            }
            self.by_pod
                .entry(pod.clone())
                .or_default()
                .push(link.clone());
        }
        self.by_link.insert(link, known);
    }

    /// An attachment went that was known, or else as it is described.
    pub fn went(&mut self, attachment: &Attachment, touched: &mut Touched) {
        if self.link_went(&attachment.link, touched) {
            return;
        }
        let known = Known {
            pod: pod_name(attachment),
            attachment: attachment.clone(),
        };
        touched.note(&known);
        self.vacate(known);
    }

    /// A link went; true if it was that of an attachment.
    pub fn link_went(&mut self, link: &str, touched: &mut Touched) -> bool {
        match self.forget(link, touched) {
            Some(known) => {
                let addresses = known.attachment.addresses.iter();
                let free = addresses.filter(|address| !self.by_address.contains_key(*address));
                touched.left.extend(free);
                self.vacate(known);
                true
            }
            None => false,
        }
    }

    /// Exactly these are there.
    pub fn replace(&mut self, all: Vec<Attachment>, touched: &mut Touched) {
        let there: BTreeSet<&str> = all.iter().map(|one| one.link.as_str()).collect();
        let links = self.by_link.keys();
        let gone: Vec<_> = links
            .filter(|link| !there.contains(&***link))
            .cloned()
            .collect();
        for link in gone {
            self.link_went(&link, touched);
        }
        for attachment in all {
            // What the plugin told is as much as the kernel knows.
            if !self.by_link.contains_key(attachment.link.as_str()) {
                self.came(attachment, touched);
            }
        }
    }

    /// Forgets of a Pod that changed what no longer matters.
    pub fn tidy(&mut self, name: &ObjectName, snapshot: &Snapshot) {
        if let Some(vacated) = self.vacated.get(name) {
            let pod = snapshot.pods.get(name).filter(|pod| !pod.finished);
            if pod.is_none_or(|pod| !is_same(vacated.uid.as_deref(), pod)) {
                self.vacated.remove(name);
            }
        }
    }

    /// True if a link is that of an attachment.
    pub fn has_link(&self, link: &str) -> bool {
        self.by_link.contains_key(link)
    }

    /// True if an attachment names the pod.
    pub fn has_pod(&self, name: &ObjectName) -> bool {
        self.by_pod.contains_key(name)
    }

    /// True if an attachment has an address of the family.
    pub fn has_family(&self, family: IpFamily) -> bool {
        let mut all = self.by_address.keys();
        all.any(|address| IpFamily::of(*address) == family)
    }

    /// The address that a Pod claims, on the node where this is: `status` is what its status says.
    pub fn claim(&self, pod: &Pod, status: Option<IpAddr>, family: IpFamily) -> Option<IpAddr> {
        let links = self.by_pod.get(&pod.name).into_iter().flatten().rev();
        let mut own = links.filter_map(|link| self.by_link.get(link));
        if let Some(known) = own.find(|known| is_of(&known.attachment, pod)) {
            let mut addresses = known.attachment.addresses.iter();
            return addresses
                .find(|address| IpFamily::of(**address) == family)
                .copied();
        }
        status.filter(|address| {
            let vacated = self.vacated.get(&pod.name);
            !vacated.is_some_and(|one| {
                is_same(one.uid.as_deref(), pod) && one.addresses.contains(address)
            })
        })
    }

    /// True if a pod that claims an address may have it: none else is attached with it, as far as its
    /// attachment tells whose it is.
    pub fn may_be_of(&self, address: IpAddr, pod: &Pod) -> bool {
        let link = self.by_address.get(&address);
        let Some(Known {
            attachment,
            pod: named,
        }) = link.and_then(|link| self.by_link.get(link))
        else {
            return true;
        };
        match is_unnamed(attachment) {
            true => is_same(uid(attachment), pod),
            false => !is_secondary(attachment) && named.as_ref() == Some(&pod.name),
        }
    }

    /// True if an attachment has the address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// The attached addresses of a family.
    pub fn addresses(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        let all = self.by_address.keys().copied();
        all.filter(move |address| IpFamily::of(*address) == family)
    }

    /// The attached addresses of a family: with the namespace, if it is a pod's that is named, and what
    /// has them.
    pub fn of_family(
        &self,
        family: IpFamily,
    ) -> impl Iterator<Item = (IpAddr, Option<&Arc<str>>, &Attachment)> {
        let all = self.by_address.iter();
        let all = all.filter(move |(address, _)| IpFamily::of(**address) == family);
        all.filter_map(|(address, link)| {
            let known = self.by_link.get(link)?;
            let namespace = known.pod.as_ref().map(|pod| &pod.namespace);
            Some((*address, namespace, &known.attachment))
        })
    }

    /// The Pod of an attachment, if it is known here as the runtime knows it.
    pub fn pod_of<'a>(
        &self,
        attachment: &Attachment,
        snapshot: &'a Snapshot,
        node: &str,
    ) -> Option<&'a Pod> {
        let pod = snapshot.pods.get(&pod_name(attachment)?)?;
        (pod.node.as_deref() == Some(node) && is_of(attachment, pod)).then_some(pod)
    }

    fn has(&self, attachment: &Attachment) -> bool {
        let known = self.by_link.get(attachment.link.as_str());
        let holds = |address| self.by_address.get(address).map(|link| &**link);
        let mut addresses = attachment.addresses.iter();
        known.is_some_and(|known| known.attachment == *attachment)
            && addresses.all(|address| holds(address) == Some(&attachment.link))
    }

    fn forget(&mut self, link: &str, touched: &mut Touched) -> Option<Known> {
        let known = self.by_link.remove(link)?;
        touched.note(&known);
        for address in &known.attachment.addresses {
            if self
                .by_address
                .get(address)
                .is_some_and(|holder| **holder == *link)
            {
                self.by_address.remove(address);
            }
        }
        if let Some(pod) = &known.pod
            && let Some(links) = self.by_pod.get_mut(pod)
        {
            links.retain(|other| **other != *link);
            if links.is_empty() {
                self.by_pod.remove(pod);
            }
        }
        Some(known)
    }

    fn vacate(&mut self, known: Known) {
        let Known { attachment, pod } = known;
        if let Some(pod) = pod.filter(|_| !is_secondary(&attachment)) {
            let vacated = Vacated {
                uid: uid(&attachment).map(Box::from),
                addresses: attachment.addresses,
            };
            self.vacated.insert(pod, vacated);
        }
    }
}

/// True if the attachment is to another network than that of the cluster.
pub fn is_secondary(attachment: &Attachment) -> bool {
    attachment.ifname != POD_IFNAME
}

/// True if the attachment is the Pod's, as far as both say who they are. A static pod has one UID
/// for kubelet and its mirror another one, which is therefore not kept.
fn is_of(attachment: &Attachment, pod: &Pod) -> bool {
    !is_secondary(attachment) && is_same(uid(attachment), pod)
}

fn is_same(uid: Option<&str>, pod: &Pod) -> bool {
    uid.is_none_or(|uid| pod.uid.is_empty() || pod.uid == Uid::from(uid))
}

fn uid(attachment: &Attachment) -> Option<&str> {
    attachment.pod.as_ref()?.uid.as_deref()
}

/// True if it is a pod's, and no one says which.
pub fn is_unnamed(attachment: &Attachment) -> bool {
    let pod = attachment.pod.as_ref();
    pod.is_some_and(|pod| pod.name.is_empty())
}

fn pod_name(attachment: &Attachment) -> Option<ObjectName> {
    let pod = attachment.pod.as_ref().filter(|pod| !pod.name.is_empty())?;
    Some(ObjectName {
        namespace: Arc::from(pod.namespace.as_str()),
        name: Arc::from(pod.name.as_str()),
    })
}
