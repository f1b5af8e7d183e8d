//! `resolvConf`: what a file in the format of resolv.conf(5) says about names.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::result::Dns;

/// Reads the file at `path`.
pub fn read(path: &Path) -> Result<Dns, Error> {
    match fs::read(path) {
        Ok(content) => Ok(parse(&String::from_utf8_lossy(&content))),
        Err(source) => Err(Error::File {
            key: "ipam.resolvConf",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads the lines that say something; the others are left out, as a resolver does.
fn parse(content: &str) -> Dns {
    let mut dns = Dns::default();
    for line in content.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(keyword), Some(first)) = (words.next(), words.next()) else {
            continue;
        };
        let all = |list: &mut Option<Vec<String>>, words: &mut dyn Iterator<Item = String>| {
            let list = list.get_or_insert_default();
            list.push(first.clone());
            list.extend(words);
        };
        match keyword.as_str() {
            "nameserver" => dns.nameservers.get_or_insert_default().push(first),
            "domain" => dns.domain = first,
            "search" => all(&mut dns.search, &mut words),
            "options" => all(&mut dns.options, &mut words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_read_and_comments_are_not() {
        let dns = parse(
            "# a comment\n; another\n\nnameserver 192.0.2.1\nnameserver  192.0.2.2 \n\
             domain example.org\nsearch a.example b.example\nsearch c.example\n\
             options ndots:5 timeout:1\nsortlist 10.0.0.0\nnameserver\n",
        );
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(dns.nameservers, list(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(dns.domain, "example.org");
        assert_eq!(dns.search, list(&["a.example", "b.example", "c.example"]));
        assert_eq!(dns.options, list(&["ndots:5", "timeout:1"]));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("/nonexistent/resolv.conf")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/resolv.conf"));
    }
}
