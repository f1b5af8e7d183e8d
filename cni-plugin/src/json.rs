//! Reading JSON the way the runtimes write it.
//!
//! Runtimes and the reference plugins are written in Go, whose decoder finds a field whatever the
//! case of its key: containerd sends `{"HostPort": 80}` where the conventions say `hostPort`. So a
//! key is looked up by its exact spelling first, then in any case. `null` is the same as a missing
//! key, unknown keys are ignored. A value of the wrong type is an error that names its place.
//!
//! That is why this is own code and not derived with serde: serde takes keys in one spelling, lets
//! `null` fail for a field that is not an `Option`, and its errors name a line and a column of a
//! text that no one has seen, for a runtime made it of several files.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

/// The bits in front of an IPv4 address in IPv6 spelling, `::ffff:10.0.0.1`.
const V4_IN_V6: u8 = 96;

/// A value that is not what its place asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} must be {expected}, not {found}")]
pub struct WrongType {
    /// Where the value stands: `ipam.ranges[0][1].subnet`.
    pub place: String,
    /// What belongs there, with its article: `a string`.
    pub expected: &'static str,
    /// What stands there: `the number 3`.
    pub found: String,
}

/// A value and its place in the document.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    value: &'a Value,
    place: String,
}

/// A JSON object and its place in the document.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    place: String,
}

impl<'a> Fields<'a> {
    /// The document itself, which must be an object.
    pub fn of_document(value: &'a Value) -> Result<Self, WrongType> {
        Node::of_document(value).object()
    }

    /// Whether there is `key` at all, even with `null`: for the few that Go's decoder notices.
    pub fn has(&self, key: &str) -> bool {
        let mut keys = self.object.keys();
        self.object.contains_key(key) || keys.any(|found| found.eq_ignore_ascii_case(key))
    }

    /// Fails if one of `keys` is missing or `null`.
    pub fn require(&self, keys: &[&str]) -> Result<(), WrongType> {
        match keys.iter().find(|key| self.get(key).is_none()) {
            None => Ok(()),
            Some(key) => Err(WrongType {
                place: self.place_of(key),
                expected: "there",
                found: "missing".to_owned(),
            }),
        }
    }

    /// The value of `key`; `None` if it is missing or `null`.
    pub fn get(&self, key: &str) -> Option<Node<'a>> {
        let exact = self.object.get(key).filter(|value| !value.is_null());
        let value = exact.or_else(|| {
            let mut all = self.object.iter();
            all.find(|(found, value)| found.eq_ignore_ascii_case(key) && !value.is_null())
                .map(|(_, value)| value)
        })?;
        let place = self.place_of(key);
        Some(Node { value, place })
    }

    /// Where the value of `key` stands in the document.
    fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.place)
        }
    }

    /// The string at `key`, empty if there is none.
    pub fn string(&self, key: &str) -> Result<&'a str, WrongType> {
        self.read(key, Node::string).map(Option::unwrap_or_default)
    }

    /// The truth value at `key`, if there is one.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, WrongType> {
        self.read(key, Node::boolean)
    }

    /// The whole number at `key`, if there is one.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, WrongType> {
        self.read(key, Node::integer)
    }

    /// The whole number from 0 at `key`, if there is one.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, WrongType> {
        self.read(key, Node::unsigned)
    }

    /// The 32-bit whole number from 0 at `key`, if there is one.
    pub fn small(&self, key: &str) -> Result<Option<u32>, WrongType> {
        self.read(key, Node::small)
    }

    /// The object at `key`, if there is one.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, WrongType> {
        self.read(key, Node::object)
    }

    /// The values in the list at `key`; none if there is no list.
    pub fn list(&self, key: &str) -> Result<Vec<Node<'a>>, WrongType> {
        self.read(key, Node::list).map(Option::unwrap_or_default)
    }

    /// As [`Fields::list`], without what is `null` there.
    pub fn list_without_null(&self, key: &str) -> Result<Vec<Node<'a>>, WrongType> {
        let mut list = self.list(key)?;
        list.retain(|node| !node.is_null());
        Ok(list)
    }

    /// The strings in the list at `key`, if there is a list.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, WrongType> {
        let Some(list) = self.read(key, Node::list)? else {
            return Ok(None);
        };
        // Go leaves the string of a list empty where there is `null`.
        let string = |node: &Node<'_>| match node.value {
            Value::Null => Ok(String::new()),
            _ => node.string().map(str::to_owned),
        };
        let strings = list.iter().map(string);
        strings.collect::<Result<_, _>>().map(Some)
    }

    /// The address at `key`, if there is one; an empty string is none.
    pub fn address(&self, key: &str) -> Result<Option<IpAddr>, WrongType> {
        match self.get(key) {
            Some(node) if node.value != "" => node.address().map(Some),
            _ => Ok(None),
        }
    }

    /// The address with prefix length at `key`, if there is one.
    pub fn network(&self, key: &str) -> Result<Option<IpNetwork>, WrongType> {
        self.read(key, Node::network)
    }

    fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Node<'a>) -> Result<T, WrongType>,
    ) -> Result<Option<T>, WrongType> {
        self.get(key).map(|node| read(&node)).transpose()
    }
}

impl<'a> Node<'a> {
    /// The document itself.
    pub fn of_document(value: &'a Value) -> Self {
        let place = String::new();
        Self { value, place }
    }

    /// Where this value stands in the document.
    pub fn place(&self) -> &str {
        if self.place.is_empty() {
            "the network configuration"
        } else {
            &self.place
        }
    }

    /// The value itself.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Whether there is `null`.
    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// The value as a string.
    pub fn string(&self) -> Result<&'a str, WrongType> {
        let string = self.value.as_str();
        string.ok_or_else(|| self.wrong("a string"))
    }

    /// The value as `true` or `false`.
    pub fn boolean(&self) -> Result<bool, WrongType> {
        let boolean = self.value.as_bool();
        boolean.ok_or_else(|| self.wrong("true or false"))
    }

    /// The value as a whole number.
    pub fn integer(&self) -> Result<i64, WrongType> {
        let integer = self.value.as_i64();
        integer.ok_or_else(|| self.wrong("a whole number"))
    }

    /// The value as a whole number from 0.
    pub fn unsigned(&self) -> Result<u64, WrongType> {
        let unsigned = self.value.as_u64();
        unsigned.ok_or_else(|| self.wrong("a whole number that is not negative"))
    }

    /// The value as a whole number from 0 to 2^32 - 1.
    pub fn small(&self) -> Result<u32, WrongType> {
        let small = self.value.as_u64().and_then(|n| u32::try_from(n).ok());
        small.ok_or_else(|| self.wrong("a whole number from 0 to 4294967295"))
    }

    /// The value as an object.
    pub fn object(&self) -> Result<Fields<'a>, WrongType> {
        let Some(object) = self.value.as_object() else {
            return Err(self.wrong("an object"));
        };
        let place = self.place.clone();
        Ok(Fields { object, place })
    }

    /// The values in this list.
    pub fn list(&self) -> Result<Vec<Node<'a>>, WrongType> {
        let Some(list) = self.value.as_array() else {
            return Err(self.wrong("a list"));
        };
        let nodes = list.iter().enumerate().map(|(index, value)| Node {
            value,
            place: format!("{}[{index}]", self.place),
        });
        Ok(nodes.collect())
    }

    /// The value as an IP address; an IPv4 address in IPv6 spelling is an IPv4 address.
    pub fn address(&self) -> Result<IpAddr, WrongType> {
        let address = self.value.as_str().and_then(|text| text.parse().ok());
        let address: IpAddr = address.ok_or_else(|| self.wrong("an IP address"))?;
        Ok(address.to_canonical())
    }

    /// The value as an IP address with or without a prefix length, which is left out.
    pub fn address_of_network(&self) -> Result<IpAddr, WrongType> {
        match self.network() {
            Ok(network) => Ok(network.ip().to_canonical()),
            Err(_) => self.address(),
        }
    }

    /// The value as an IP address with a prefix length.
    pub fn network(&self) -> Result<IpNetwork, WrongType> {
        // Only digits: the parser would take 10.0.0.0/255.255.255.0 and /+24 as well.
        let digits = |text: &&str| {
            let length = text.split_once('/').map(|(_, length)| length);
            length.is_some_and(|length| length.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let text = self.value.as_str().filter(digits);
        let network = text.and_then(|text| text.parse().ok());
        network.ok_or_else(|| self.wrong("an address with a prefix length, such as 10.0.0.0/24"))
    }

    /// As [`Node::network`]; an IPv4 network in IPv6 spelling (`::ffff:10.0.0.0/104`) is an IPv4
    /// network.
    pub fn canonical_network(&self) -> Result<IpNetwork, WrongType> {
        let network = self.network()?;
        let length = network.prefix().checked_sub(V4_IN_V6);
        Ok(match (network.ip().to_canonical(), length) {
            (address @ IpAddr::V4(_), Some(length)) if network.is_ipv6() => {
                IpNetwork::new(address, length).unwrap_or(network)
            }
            _ => network,
        })
    }

    /// The error that says that this value is not what belongs here.
    pub fn wrong(&self, expected: &'static str) -> WrongType {
        WrongType {
            place: self.place().to_owned(),
            expected,
            found: name(self.value),
        }
    }
}

/// How a person would name a value that stands in the wrong place.
fn name(value: &Value) -> String {
    const LONGEST: usize = 60;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() <= LONGEST => format!("{text:?}"),
        Value::String(text) => {
            let start: String = text.chars().take(LONGEST).collect();
            format!("a string that starts with {start:?}")
        }
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_error(document: Value, read: impl Fn(&Fields) -> Result<(), WrongType>, text: &str) {
        let fields = Fields::of_document(&document).unwrap();
        assert_eq!(read(&fields).unwrap_err().to_string(), text);
    }

    #[test]
    fn keys_are_found_in_any_case_but_the_exact_spelling_wins() {
        let document = json!({"HOSTPORT": 1, "HostPort": 2, "hostIP": null});
        let fields = Fields::of_document(&document).unwrap();
        assert_eq!(fields.unsigned("HostPort").unwrap(), Some(2));
        assert!(fields.unsigned("hostport").unwrap().is_some());
        assert_eq!(fields.string("hostIP").unwrap(), "");
    }

    #[test]
    fn null_is_the_same_as_a_missing_key() {
        let document = json!({"a": null});
        let fields = Fields::of_document(&document).unwrap();
        assert_eq!(fields.boolean("a").unwrap(), None);
        assert!(fields.list("a").unwrap().is_empty());
    }

    #[test]
    fn null_does_not_hide_a_value_in_another_spelling() {
        let document = json!({"hostPort": null, "HostPort": 80, "snat": null});
        let fields = Fields::of_document(&document).unwrap();
        assert_eq!(fields.unsigned("hostPort").unwrap(), Some(80));
        assert!(fields.has("SNAT") && fields.get("snat").is_none());
        assert!(!fields.has("masqAll"));
    }

    #[test]
    fn an_error_names_the_place_down_to_the_index() {
        let document = json!({"ipam": {"ranges": [[{"subnet": 3}]]}});
        let fields = Fields::of_document(&document).unwrap();
        let ipam = fields.object("ipam").unwrap().unwrap();
        let ranges = ipam.list("ranges").unwrap();
        let range = ranges[0].list().unwrap()[0].object().unwrap();
        assert_eq!(
            range.network("subnet").unwrap_err().to_string(),
            "ipam.ranges[0][0].subnet must be an address with a prefix length, such as \
             10.0.0.0/24, not the number 3"
        );
    }

    #[test]
    fn each_wrong_type_is_named() {
        let document = json!({"a": [1], "b": {}, "c": true, "d": -1, "e": "x", "f": 4294967296u64});
        check_error(
            document.clone(),
            |fields| fields.string("a").map(drop),
            "a must be a string, not a list",
        );
        check_error(
            document.clone(),
            |fields| fields.integer("b").map(drop),
            "b must be a whole number, not an object",
        );
        check_error(
            document.clone(),
            |fields| fields.object("c").map(drop),
            "c must be an object, not true",
        );
        check_error(
            document.clone(),
            |fields| fields.unsigned("d").map(drop),
            "d must be a whole number that is not negative, not the number -1",
        );
        check_error(
            document.clone(),
            |fields| fields.address("e").map(drop),
            "e must be an IP address, not \"x\"",
        );
        check_error(
            document,
            |fields| fields.small("f").map(drop),
            "f must be a whole number from 0 to 4294967295, not the number 4294967296",
        );
    }

    #[test]
    fn a_document_that_is_no_object_is_refused() {
        let error = Fields::of_document(&json!([])).unwrap_err();
        let text = "the network configuration must be an object, not a list";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn an_ipv4_network_in_ipv6_spelling_is_an_ipv4_network() {
        for (text, expected) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1/128", "10.0.0.1/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::ffff:0.0.0.0/95"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("fd00::/104", "fd00::/104"),
        ] {
            let document = json!(text);
            let network = Node::of_document(&document).canonical_network();
            assert_eq!(network.unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_prefix_is_written_with_digits() {
        for text in [
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/+8",
            "10.0.0.0/33",
        ] {
            let document = json!({ "net": text });
            let fields = Fields::of_document(&document).unwrap();
            fields.network("net").unwrap_err();
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_spelling_is_an_ipv4_address() {
        let document = json!({"ip": "::ffff:10.0.0.1", "net": "10.0.0.5/24", "bare": "10.0.0.6"});
        let fields = Fields::of_document(&document).unwrap();
        let expected: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(fields.address("ip").unwrap(), Some(expected));
        for (key, expected) in [("net", "10.0.0.5"), ("bare", "10.0.0.6")] {
            let node = fields.get(key).unwrap();
            assert_eq!(node.address_of_network().unwrap().to_string(), expected);
        }
    }
}
