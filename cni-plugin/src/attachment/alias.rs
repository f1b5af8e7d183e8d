//! The alias of a host link: whose it is, for people and for GC.

use std::fmt;

/// The longest alias that the kernel takes with a final zero behind it, in bytes: with `IFALIASZ - 2`
/// the attribute is within its policy (`ifla_policy`, net/core/rtnetlink.c).
const LONGEST: usize = 254;

/// Stands for the pod's name where that does not fit, so that no one takes it for no pod.
const UNNAMED: &str = " pod=?";

/// What the alias (`IFLA_IFALIAS`) of the host end of a link says, as `ip link` shows it:
/// `containerID/ifname net=NETWORK pod=NAMESPACE/NAME uid=UID`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alias {
    /// The container ID.
    pub container_id: String,
    /// The interface in the container.
    pub ifname: String,
    /// The network.
    pub network: String,
    /// The namespace and name of the pod, if the runtime told them.
    pub pod: Option<(String, String)>,
    /// It is a pod's whose name has no room here.
    pub unnamed: bool,
    /// The UID of the pod, if the runtime told it: another pod may have the same name later.
    pub uid: Option<String>,
}

impl Alias {
    /// Reads an alias; `None` if it is not one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (container_id, ifname) = words.next()?.split_once('/')?;
        let mut alias = Self {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            ..Self::default()
        };
        for word in words {
            match word.split_once('=') {
                Some(("net", network)) => alias.network = network.to_owned(),
                Some(("pod", pod)) => {
                    let names = pod.split_once('/');
                    alias.pod = names.map(|(space, name)| (space.to_owned(), name.to_owned()));
                    alias.unnamed = alias.pod.is_none();
                }
                Some(("uid", uid)) => alias.uid = Some(uid.to_owned()),
                _ => {}
            }
        }
        (!alias.network.is_empty()).then_some(alias)
    }

    /// Whether this is the alias of that attachment. A container ID too long for an alias is cut
    /// off, so its start has to do.
    pub fn is_of(&self, container_id: &str, ifname: &str) -> bool {
        let is_cut = self.container_id.len() >= room(&self.rest());
        let start = container_id.starts_with(&self.container_id);
        self.ifname == ifname && (self.container_id == container_id || is_cut && start)
    }
}

/// So much of a container ID fits before what is always there.
fn room(rest: &str) -> usize {
    LONGEST.saturating_sub(rest.len() + UNNAMED.len())
}

impl Alias {
    /// What is always there behind the container ID.
    fn rest(&self) -> String {
        format!("/{} net={}", self.ifname, self.network)
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = self.rest();
        let id = self.container_id.get(..room(&rest));
        let id = id.unwrap_or(&self.container_id);
        write!(f, "{id}{rest}")?;
        let left = LONGEST.saturating_sub(id.len() + rest.len());
        let fits = |word: &String, left: usize| word.len() <= left && !word[1..].contains(' ');
        let pod = match &self.pod {
            Some((namespace, name)) => {
                let pod = format!(" pod={namespace}/{name}");
                Some(pod).filter(|pod| fits(pod, left))
            }
            None if !self.unnamed => Some(String::new()),
            None => None,
        };
        let pod = pod.unwrap_or_else(|| UNNAMED.to_owned());
        f.write_str(&pod)?;
        let uid = self.uid.as_ref().map(|uid| format!(" uid={uid}"));
        match uid.filter(|uid| fits(uid, left.saturating_sub(pod.len()))) {
            Some(uid) => f.write_str(&uid),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alias() -> Alias {
        Alias {
            container_id: "abc".into(),
            ifname: "eth0".into(),
            network: "podwire".into(),
            pod: Some(("default".into(), "web-0".into())),
            unnamed: false,
            uid: Some("3f2a".into()),
        }
    }

    #[test]
    fn an_alias_says_whose_link_it_is() {
        assert_eq!(
            alias().to_string(),
            "abc/eth0 net=podwire pod=default/web-0 uid=3f2a"
        );
        assert_eq!(Alias::parse(&alias().to_string()), Some(alias()));
    }

    #[test]
    fn a_pod_whose_name_does_not_fit_is_not_taken_for_none() {
        let long = Alias {
            container_id: "0".repeat(64),
            pod: Some(("n".repeat(63), "p".repeat(253))),
            ..alias()
        };
        let read = Alias::parse(&long.to_string()).unwrap();
        assert_eq!((read.pod.clone(), read.unnamed), (None, true));
        assert_eq!(read.uid, long.uid);
        assert!(read.is_of(&long.container_id, "eth0"));
        let none = Alias {
            pod: None,
            uid: None,
            ..alias()
        };
        assert_eq!(Alias::parse(&none.to_string()), Some(none));
    }

    #[test]
    fn an_alias_of_before_there_was_room_for_more_is_recognised() {
        let id = "0".repeat(300);
        let network = "n".repeat(20);
        let rest = format!("/eth0 net={network}");
        let old = format!("{}{rest}", &id[..LONGEST - rest.len()]);
        let read = Alias::parse(&old).unwrap();
        assert!(read.is_of(&id, "eth0") && !read.is_of(&"1".repeat(300), "eth0"));
        assert!(!alias().is_of("abcd", "eth0"));
    }

    #[test]
    fn what_others_write_is_not_ours() {
        for text in ["", "uplink", "a b", "a/b", "a/b c=d", "rack 4/port 7"] {
            assert_eq!(Alias::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_alias_fits_and_is_recognised(
            id in "[a-z0-9]{1,300}",
            ifname in "[a-z0-9/=~-]{1,15}",
            network in "[a-z0-9.]{1,200}",
            name in "[a-z0-9 ]{1,253}",
        ) {
            let ifname = ifname.replace('/', "-");
            let pod = Some(("default".to_owned(), name));
            let uid = Some("3f2a".to_owned());
            let alias = Alias {
                container_id: id.clone(), ifname: ifname.clone(), network, pod, uid, unnamed: false,
            };
            let text = alias.to_string();
            prop_assert!(text.len() <= LONGEST);
            let read = Alias::parse(&text).unwrap();
            prop_assert!(read.is_of(&id, &ifname));
            prop_assert!(read.pod.is_some() || read.unnamed);
            prop_assert_eq!(read.to_string(), text);
            prop_assert_eq!(read.network, alias.network);
        }
    }
}
