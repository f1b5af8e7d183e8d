//! The alias of a host link: whose it is, for people and for GC.

use std::fmt;

/// `IFALIASZ` of linux/if.h without the final zero, in bytes.
const LONGEST: usize = 255;

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
        let whole = Self {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            network: self.network.clone(),
            ..Self::default()
        };
        let same = Self::parse(&whole.to_string());
        same.is_some_and(|same| {
            same.container_id == self.container_id && same.ifname == self.ifname
        })
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = format!("/{} net={}", self.ifname, self.network);
        let room = LONGEST.saturating_sub(rest.len());
        let id = self.container_id.get(..room).unwrap_or(&self.container_id);
        write!(f, "{id}{rest}")?;
        let mut room = LONGEST - id.len() - rest.len();
        let pod = self.pod.as_ref();
        let pod = pod.map(|(namespace, name)| format!(" pod={namespace}/{name}"));
        let uid = self.uid.as_ref().map(|uid| format!(" uid={uid}"));
        // They are a courtesy: they go where they do not fit.
        for word in [pod, uid].into_iter().flatten() {
            if word.len() <= room && !word[1..].contains(' ') {
                f.write_str(&word)?;
                room -= word.len();
            }
        }
        Ok(())
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
            let alias = Alias { container_id: id.clone(), ifname: ifname.clone(), network, pod, uid };
            let text = alias.to_string();
            prop_assert!(text.len() <= LONGEST);
            let read = Alias::parse(&text).unwrap();
            prop_assert!(read.is_of(&id, &ifname));
            prop_assert_eq!(read.network, alias.network);
        }
    }
}
