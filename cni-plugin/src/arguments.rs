//! `CNI_ARGS`: requests that the runtime passes on as `KEY=VALUE;KEY=VALUE`.
//!
//! The order of the pairs carries no meaning (runtimes shuffle them). Keys that a plugin does not
//! know are an error unless `IgnoreUnknown` is true, as with the reference plugins.

use std::net::IpAddr;

use crate::environment::is_identifier;
use crate::policy::PodName;

/// The longest name of a pod, in bytes.
const LONGEST_NAME: usize = 253;

/// What `CNI_ARGS` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `IP`: an address the container should get.
    pub ip: Option<IpAddr>,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// The pairs with keys that mean nothing to us.
    pub unknown: Vec<String>,
    /// `IgnoreUnknown`: unknown keys are no error.
    pub ignore_unknown: bool,
}

/// `CNI_ARGS` that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// A part has no `=`, or more than one.
    #[error("ARGS: invalid pair {pair:?}: CNI_ARGS is a list of KEY=VALUE separated by \";\"")]
    Pair {
        /// The part.
        pair: String,
    },
    /// The value does not fit the key.
    #[error("ARGS: error parsing value of pair {pair:?}: {reason}")]
    Value {
        /// The pair.
        pair: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// Keys that mean nothing to the plugin.
    #[error(
        "ARGS: unknown args {}: remove them from CNI_ARGS or add IgnoreUnknown=true",
        quoted(pairs)
    )]
    Unknown {
        /// The pairs with these keys.
        pairs: Vec<String>,
    },
}

impl Arguments {
    /// Reads `CNI_ARGS`. Whether unknown keys matter is left to [`Arguments::refuse_unknown`].
    pub fn parse(text: &str) -> Result<Self, ArgumentsError> {
        let mut arguments = Self::default();
        if text.is_empty() {
            return Ok(arguments);
        }
        for pair in text.split(';') {
            arguments.take(pair)?;
        }
        Ok(arguments)
    }

    /// What can be understood of `CNI_ARGS` that are for another plugin.
    pub fn understood(text: &str) -> Self {
        let mut arguments = Self::default();
        for pair in text.split(';') {
            // It is not for us.
            let _ = arguments.take(pair);
        }
        arguments
    }

    fn take(&mut self, pair: &str) -> Result<(), ArgumentsError> {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) if !value.contains('=') => (key, value),
            _ => return Err(ArgumentsError::Pair { pair: pair.into() }),
        };
        let wrong = |reason| ArgumentsError::Value {
            pair: pair.into(),
            reason,
        };
        match key {
            // Runtimes pass on what no one filled in.
            "IP" if value.is_empty() => {}
            "IP" => self.ip = Some(address(value).map_err(wrong)?),
            "IgnoreUnknown" => self.ignore_unknown = boolean(value).map_err(wrong)?,
            "K8S_POD_NAMESPACE" => self.pod_namespace = name(value),
            "K8S_POD_NAME" => self.pod_name = name(value),
            "K8S_POD_UID" => self.pod_uid = name(value),
            _ => {}
        }
        // The names of the pod are for people; the rule about unknown keys holds for them too.
        if !matches!(key, "IP" | "IgnoreUnknown") {
            self.unknown.push(pair.to_owned());
        }
        Ok(())
    }

    /// Fails if there are unknown keys that are not to be ignored.
    pub fn refuse_unknown(&self) -> Result<(), ArgumentsError> {
        if self.unknown.is_empty() || self.ignore_unknown {
            return Ok(());
        }
        let pairs = self.unknown.clone();
        Err(ArgumentsError::Unknown { pairs })
    }

    /// The pod's namespace and name, if both are there.
    pub fn pod(&self) -> Option<(&str, &str)> {
        Some((self.pod_namespace.as_deref()?, self.pod_name.as_deref()?))
    }

    /// The pod as policies know it, if the runtime told.
    pub fn pod_name(&self) -> Option<PodName> {
        let (namespace, name) = self.pod()?;
        Some(PodName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: self.pod_uid.clone(),
        })
    }
}

/// A name or UID, if it is one. Those of Kubernetes are (RFC 1123), and those of runtimes without
/// it, which have more letters. They become a part of logs, of comments in nftables and of the
/// aliases of links, where a line end or an escape sequence would tell lies.
fn name(text: &str) -> Option<String> {
    (is_identifier(text) && text.len() <= LONGEST_NAME).then(|| text.to_owned())
}

/// An address, whose network may be told as well and means nothing here.
fn address(text: &str) -> Result<IpAddr, String> {
    let (bare, length) = match text.split_once('/') {
        Some((bare, length)) => (bare, Some(length)),
        None => (text, None),
    };
    let address = bare.parse::<IpAddr>().ok();
    let fits = |address: &IpAddr| length.is_none_or(|length| is_prefix_length(length, *address));
    match address.filter(fits) {
        Some(address) => Ok(address.to_canonical()),
        None => Err(format!("invalid IP address {text}")),
    }
}

fn is_prefix_length(text: &str, address: IpAddr) -> bool {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits && text.parse::<u32>().is_ok_and(|length| length <= longest)
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(format!("boolean unmarshal error: invalid input {other}")),
    }
}

/// The pairs as the reference plugins print a list of strings: `["A=1" "B=2"]`.
fn quoted(pairs: &[String]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|pair| format!("{pair:?}")).collect();
    format!("[{}]", pairs.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINERD: &str = "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=1;IgnoreUnknown=1;\
                              K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0";

    fn error(text: &str) -> String {
        let result = Arguments::parse(text).and_then(|arguments| arguments.refuse_unknown());
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_containerd_sends_names_the_pod() {
        let arguments = Arguments::parse(CONTAINERD).unwrap();
        assert_eq!(arguments.pod(), Some(("default", "web-0")));
        assert_eq!(arguments.pod_name().unwrap().uid.as_deref(), Some("1"));
        arguments.refuse_unknown().unwrap();
    }

    #[test]
    fn what_can_be_no_name_is_none() {
        let long = "a".repeat(254);
        for name in [
            "",
            "a\nlevel",
            "\u{1b}]0x\u{7}",
            "a b",
            "a/b",
            "-a",
            "ä",
            &long,
        ] {
            let text = format!("K8S_POD_NAMESPACE={name};K8S_POD_NAME=web-0");
            assert_eq!(Arguments::parse(&text).unwrap().pod(), None, "{name:?}");
            let text = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=Web_0;K8S_POD_UID={name}");
            let pod = Arguments::parse(&text).unwrap().pod_name().unwrap();
            assert_eq!((pod.name.as_str(), pod.uid), ("Web_0", None), "{name:?}");
        }
    }

    #[test]
    fn an_address_is_read_with_and_without_a_prefix() {
        for text in ["IP=10.1.2.3", "IP=10.1.2.3/24", "IP=::ffff:10.1.2.3"] {
            let arguments = Arguments::parse(text).unwrap();
            assert_eq!(arguments.ip, Some("10.1.2.3".parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn an_address_comes_alone_and_with_a_prefix_length_that_can_be() {
        for value in [
            "10.1.2.77/99",
            "10.1.2.77/",
            "10.1.2.77/+24",
            "10.1.2.77/-1",
            "10.1.2.77/24/24",
            "10.1.2.77/255.255.255.0",
            "10.1.2.77,10.1.2.78",
            "10.1.2.77/24,10.1.2.78/24",
            "fd00::2/129",
        ] {
            let expected = format!("invalid IP address {value}");
            let text = error(&format!("IP={value}"));
            assert!(text.ends_with(&expected), "{text}");
        }
        for value in ["10.1.2.77/0", "10.1.2.77/024", "::ffff:10.1.2.77/120"] {
            let arguments = Arguments::parse(&format!("IP={value}")).unwrap();
            assert_eq!(arguments.ip, Some("10.1.2.77".parse().unwrap()), "{value}");
        }
    }

    #[test]
    fn of_what_is_for_another_plugin_the_pod_is_understood() {
        let text = "LABELS=a=b;IP=dhcp;K8S_POD_NAMESPACE=shop;;K8S_POD_NAME=web-0;";
        Arguments::parse(text).unwrap_err();
        let arguments = Arguments::understood(text);
        assert_eq!(
            (arguments.pod(), arguments.ip),
            (Some(("shop", "web-0")), None)
        );
    }

    #[test]
    fn an_empty_address_is_none() {
        for text in [
            "IgnoreUnknown=1;IP=",
            "IP=",
            "IP=;K8S_POD_NAME=a;IgnoreUnknown=1",
        ] {
            let arguments = Arguments::parse(text).unwrap();
            assert_eq!(arguments.ip, None, "{text}");
            arguments.refuse_unknown().unwrap();
        }
    }

    #[test]
    fn unknown_keys_are_an_error_unless_they_are_to_be_ignored() {
        let text = error("IP=10.1.2.3;FOO=bar;X=");
        assert!(
            text.starts_with(r#"ARGS: unknown args ["FOO=bar" "X="]"#),
            "{text}"
        );
        for text in ["FOO=bar;IgnoreUnknown=true", "IgnoreUnknown=TRUE;FOO=bar"] {
            Arguments::parse(text).unwrap().refuse_unknown().unwrap();
        }
        error("FOO=bar;IgnoreUnknown=0");
    }

    #[test]
    fn what_is_no_pair_is_an_error() {
        for text in ["x", "IP=10.1.2.3;", ";", "A=b=c"] {
            assert!(error(text).starts_with("ARGS: invalid pair"), "{text}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_errors() {
        assert_eq!(
            error("IP=bla"),
            r#"ARGS: error parsing value of pair "IP=bla": invalid IP address bla"#
        );
        assert_eq!(
            error("IgnoreUnknown=maybe"),
            r#"ARGS: error parsing value of pair "IgnoreUnknown=maybe": boolean unmarshal error: invalid input maybe"#
        );
    }
}
