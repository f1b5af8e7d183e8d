//! `resolvConf`: what a file in the format of resolv.conf(5) says about names.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::Error;
use crate::result::Dns;

/// A file that is longer says more than names; glibc reads a few kilobytes.
const LONGEST: u64 = 1 << 20;

/// Reads the file at `path`.
pub fn read(path: &Path) -> Result<Dns, Error> {
    match content(path) {
        Ok(content) => Ok(parse(&String::from_utf8_lossy(&content))),
        Err(source) => Err(Error::File {
            key: "ipam.resolvConf",
            path: path.to_owned(),
            source,
        }),
    }
}

/// What a regular file holds: a FIFO would keep the pod waiting, a device has no end. A
/// link is followed: /etc/resolv.conf often is one.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let without_waiting = options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = without_waiting.open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut content)?;
    match content.len() as u64 > LONGEST {
        true => Err(io::Error::other("it is longer than 1 MiB")),
        false => Ok(content),
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

    #[test]
    fn what_is_not_a_file_of_a_sensible_length_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::write(at("long"), vec![b'#'; LONGEST as usize + 1]).unwrap();
        std::fs::write(at("file"), "nameserver 192.0.2.1\n").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        for (path, said) in [
            (at("fifo"), "not a regular file"),
            (at("directory"), "directory"),
            (at("long"), "longer than 1 MiB"),
            ("/dev/zero".into(), "not a regular file"),
        ] {
            let error = read(&path).unwrap_err();
            let text = format!("{error}: {:?}", std::error::Error::source(&error));
            assert!(text.contains(said), "{text}");
        }
        let dns = read(&at("link")).unwrap();
        assert_eq!(dns.nameservers, Some(vec!["192.0.2.1".to_owned()]));
    }
}
