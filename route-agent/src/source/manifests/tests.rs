use std::os::unix::fs::symlink;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::snapshot::{Dirty, Snapshot};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory with a source on it, and what the source has said so far.
struct Watched {
    directory: TempDir,
    inputs: Receiver<Input>,
    snapshot: Snapshot,
    warnings: Vec<Warning>,
    listed: bool,
}

impl Watched {
    fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mut watched = Self::on(directory);
        watched.until("the first list", |now| now.listed);
        watched
    }

    fn on(directory: TempDir) -> Self {
        let path = directory.path().to_owned();
        Self::at(directory, path)
    }

    /// Watches a path in a directory.
    fn at(directory: TempDir, path: PathBuf) -> Self {
        let (sender, inputs) = mpsc::channel();
        thread::spawn(move || run(&path, Scope::All, &sender));
        let (snapshot, warnings) = (Snapshot::default(), Vec::new());
        Self {
            directory,
            inputs,
            snapshot,
            warnings,
            listed: false,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Takes in what the source says until the condition holds; returns how long that took.
    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !condition(self) {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let Ok(input) = self.inputs.recv_timeout(left) else {
                panic!(
                    "{what} did not happen: {:?} {:?}",
                    self.nodes(),
                    self.warnings
                );
            };
            match input {
                Input::Changes(changes) => {
                    let mut dirty = Dirty::default();
                    for change in changes {
                        self.snapshot.apply(change, &mut dirty);
                    }
                }
                Input::Listed => self.listed = true,
                Input::SourceWarnings(now) => self.warnings = now,
                other => panic!("unexpected {other:?}"),
            }
        }
        start.elapsed()
    }

    fn nodes(&self) -> Vec<String> {
        let nodes = self.snapshot.nodes.values();
        nodes
            .map(|node| format!("{}={:?}", node.name, node.internal_ips))
            .collect()
    }
}

fn node(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
         status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
    )
}

#[test]
fn what_is_there_is_listed_before_the_list_is_said_to_be_complete() {
    let json = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"j"}}"#;
    let watched = Watched::start(&[
        ("a.yaml", &node("a", "10.0.0.1")),
        ("b.yml", &node("b", "10.0.0.2")),
        ("upper.YAML", &node("u", "10.0.0.4")),
        ("c.json", json),
        ("ignored.txt", &node("no", "10.0.0.3")),
        (".hidden.yaml", &node("no", "10.0.0.3")),
    ]);
    let nodes = ["a=[10.0.0.1]", "b=[10.0.0.2]", "j=[]", "u=[10.0.0.4]"];
    assert_eq!(watched.nodes(), nodes);
    assert!(watched.warnings.is_empty());
}

#[test]
fn a_write_arrives_within_100_milliseconds() {
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    let mut times = Vec::new();
    for round in 2..22 {
        watched.write("a.yaml", &node("a", &format!("10.0.0.{round}")));
        let wanted = format!("a=[10.0.0.{round}]");
        times.push(watched.until("the change", |now| now.nodes() == [wanted.clone()]));
    }
    times.sort();
    assert!(
        times[times.len() / 2] < Duration::from_millis(100),
        "{times:?}"
    );
}

#[test]
fn a_file_that_is_removed_takes_its_objects_with_it() {
    let mut watched = Watched::start(&[
        ("a.yaml", &node("a", "10.0.0.1")),
        ("b.yaml", &node("b", "10.0.0.2")),
    ]);
    fs::remove_file(watched.path("a.yaml")).unwrap();
    watched.until("the removal", |now| now.nodes() == ["b=[10.0.0.2]"]);
}

#[test]
fn an_editor_that_renames_the_old_file_away_does_not_remove_its_objects() {
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).unwrap();
    watched.write("a.yaml", &node("a", "10.0.0.2"));
    fs::remove_file(watched.path("a.yaml~")).unwrap();
    watched.until("the change", |now| {
        assert_eq!(
            now.snapshot.nodes.len(),
            1,
            "the Node was removed for a moment"
        );
        now.nodes() == ["a=[10.0.0.2]"]
    });
}

#[test]
fn a_file_renamed_over_another_counts_at_once() {
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    watched.write(".a.yaml.swp", &node("a", "10.0.0.2"));
    fs::rename(watched.path(".a.yaml.swp"), watched.path("a.yaml")).unwrap();
    watched.until("the change", |now| now.nodes() == ["a=[10.0.0.2]"]);
}

#[test]
fn a_file_renamed_within_the_directory_keeps_its_objects() {
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    fs::rename(watched.path("a.yaml"), watched.path("z.yaml")).unwrap();
    watched.write("b.yaml", &node("b", "10.0.0.2"));
    watched.until("the other file", |now| now.nodes().len() == 2);
    watched.write("z.yaml", &node("a", "10.0.0.3"));
    watched.until("the new owner", |now| {
        assert_eq!(
            now.snapshot.nodes.len(),
            2,
            "the Node was removed for a moment"
        );
        now.nodes()[0] == "a=[10.0.0.3]"
    });
}

#[test]
fn a_half_written_file_is_not_seen_until_its_writer_closes_it() {
    use std::io::Write;
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    let mut file = fs::File::create(watched.path("a.yaml")).unwrap();
    let text = node("a", "10.0.0.2");
    let (first, second) = text.split_at(text.len() / 2);
    file.write_all(first.as_bytes()).unwrap();
    file.flush().unwrap();
    watched.write("b.yaml", &node("b", "10.0.0.3"));
    watched.until("the other file", |now| now.nodes().len() == 2);
    assert_eq!(watched.nodes()[0], "a=[10.0.0.1]");
    assert!(watched.warnings.is_empty());
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    watched.until("the rest", |now| now.nodes()[0] == "a=[10.0.0.2]");
}

#[test]
fn a_broken_and_an_emptied_file_are_named_and_their_last_good_state_is_kept() {
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    for text in [
        "kind: [",
        "",
        "\u{0}\u{1}",
        "hello",
        "\n",
        "# generated\n",
        "---\n# to come\n...\n",
    ] {
        watched.write("a.yaml", text);
        watched.until("the warning", |now| now.warnings.len() == 1);
        assert!(watched.warnings[0].object.ends_with("a.yaml"));
        assert_eq!(watched.nodes(), ["a=[10.0.0.1]"]);
        watched.write("a.yaml", &node("a", "10.0.0.1"));
        watched.until("the mending", |now| now.warnings.is_empty());
    }
}

#[test]
fn a_file_that_never_held_anything_and_is_emptied_is_no_trouble_any_longer() {
    let mut watched = Watched::start(&[("a.yaml", "kind: ["), ("b.yaml", &node("b", "10.0.0.2"))]);
    watched.until("the warning", |now| now.warnings.len() == 1);
    for text in ["", "# nothing yet\n"] {
        watched.write("a.yaml", text);
        watched.until("the end of it", |now| now.warnings.is_empty());
        watched.write("a.yaml", "kind: [");
        watched.until("the warning", |now| now.warnings.len() == 1);
    }
}

#[test]
fn text_that_is_not_utf_8_is_named() {
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    fs::write(watched.path("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    watched.until("the warning", |now| now.warnings.len() == 1);
    assert_eq!(watched.nodes(), ["a=[10.0.0.1]"]);
}

#[test]
fn a_broken_file_at_the_start_stops_no_other() {
    let mut watched = Watched::start(&[("a.yaml", "kind: ["), ("b.yaml", &node("b", "10.0.0.2"))]);
    watched.until("the warning", |now| now.warnings.len() == 1);
    assert_eq!(watched.nodes(), ["b=[10.0.0.2]"]);
    watched.write("a.yaml", &node("a", "10.0.0.1"));
    watched.until("the mending", |now| {
        now.nodes().len() == 2 && now.warnings.is_empty()
    });
}

#[test]
fn a_pipe_among_the_files_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&directory.path().join("pipe.yaml"), mode).unwrap();
    fs::write(directory.path().join("a.yaml"), node("a", "10.0.0.1")).unwrap();
    let mut watched = Watched::on(directory);
    watched.until("the list", |now| now.listed && now.warnings.len() == 1);
    assert_eq!(watched.nodes().len(), 1);
}

#[test]
fn a_pipe_that_takes_the_place_of_a_file_while_it_is_opened_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&path("pipe"), mode).unwrap();
    fs::write(path("a.yaml"), "").unwrap();
    let (one, other) = (path("pipe"), path("a.yaml"));
    let (done, opened) = mpsc::channel();
    let opener = {
        let path = other.clone();
        move || {
            for _ in 0..20_000 {
                let _ = open(&path);
            }
            done.send(()).unwrap();
        }
    };
    thread::spawn(opener);
    let start = Instant::now();
    while opened.try_recv().is_err() {
        assert!(
            start.elapsed() < PATIENCE,
            "it waits for a writer of the pipe"
        );
        let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        let here = nix::fcntl::AT_FDCWD;
        nix::fcntl::renameat2(here, &one, here, &other, exchange).unwrap();
    }
}

#[test]
fn a_link_to_a_device_is_named_and_not_read() {
    let mut watched = Watched::start(&[("a.yaml", &node("a", "10.0.0.1"))]);
    symlink("/dev/zero", watched.path("zero.yaml")).unwrap();
    watched.until("the warning", |now| now.warnings.len() == 1);
    assert!(watched.warnings[0].text.contains("not a regular file"));
    watched.write("b.yaml", &node("b", "10.0.0.2"));
    watched.until("the next file", |now| now.nodes().len() == 2);
}

#[test]
fn a_directory_with_the_name_of_a_manifest_is_named() {
    for early in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.yaml");
        if early {
            fs::create_dir(&path).unwrap();
        }
        let mut watched = Watched::on(directory);
        watched.until("the list", |now| now.listed);
        if !early {
            fs::create_dir(&path).unwrap();
        }
        watched.until("the warning", |now| now.warnings.len() == 1);
        let text = &watched.warnings[0].text;
        assert!(text.contains("not a regular file"), "{text}");
        fs::remove_dir(&path).unwrap();
        watched.until("its end", |now| now.warnings.is_empty());
    }
}

#[test]
fn a_link_that_leads_nowhere_is_named_and_read_once_it_leads_somewhere() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    for early in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link.yaml");
        fs::write(directory.path().join("b.yaml"), node("b", "10.0.0.2")).unwrap();
        if early {
            symlink(&target, &link).unwrap();
        }
        let mut watched = Watched::on(directory);
        watched.until("the list", |now| now.listed);
        if !early {
            symlink(&target, &link).unwrap();
        }
        watched.until("the warning", |now| now.warnings.len() == 1);
        assert!(watched.warnings[0].object.ends_with("link.yaml"));
        assert!(!watched.warnings[0].text.contains("last good state"));
        fs::write(&target, node("a", "10.0.0.1")).unwrap();
        watched.until("the target", |now| {
            now.nodes().len() == 2 && now.warnings.is_empty()
        });
        fs::remove_file(&target).unwrap();
        fs::remove_file(&link).unwrap();
        watched.until("the end of the link", |now| now.nodes() == ["b=[10.0.0.2]"]);
        assert!(watched.warnings.is_empty());
    }
}

#[test]
fn what_a_link_leads_to_is_read_when_it_changes_though_the_directory_does_not() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, node("a", "10.0.0.1")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    symlink(&target, directory.path().join("early.yaml")).unwrap();
    let mut watched = Watched::on(directory);
    watched.until("the list", |now| now.nodes() == ["a=[10.0.0.1]"]);
    // Written over in place, replaced, and again.
    fs::write(&target, node("a", "10.0.0.22")).unwrap();
    watched.until("the new text", |now| now.nodes() == ["a=[10.0.0.22]"]);
    for address in ["10.0.0.33", "10.0.0.44"] {
        let new = elsewhere.path().join("new");
        fs::write(&new, node("a", address)).unwrap();
        fs::rename(&new, &target).unwrap();
        let expected = format!("a=[{address}]");
        watched.until("the new file", |now| now.nodes() == [&*expected]);
    }
    fs::remove_file(&target).unwrap();
    watched.until("the warning", |now| now.warnings.len() == 1);
    assert_eq!(watched.nodes(), ["a=[10.0.0.44]"]);
    fs::write(&target, node("a", "10.0.0.5")).unwrap();
    watched.until("the file", |now| now.nodes() == ["a=[10.0.0.5]"]);
}

#[test]
fn what_is_no_text_behind_a_link_is_read_again_only_once_it_is_written() {
    let target = tempfile::NamedTempFile::new().unwrap();
    let text = node("a", "172.18.0.7");
    let is_written = SystemTime::now();
    let write = |text: &[u8]| {
        fs::write(target.path(), text).unwrap();
        target.as_file().set_modified(is_written).unwrap();
    };
    write(&vec![0xff; text.len()]);
    let directory = tempfile::tempdir().unwrap();
    symlink(target.path(), directory.path().join("nodes.yaml")).unwrap();
    let mut watched = Watched::on(directory);
    watched.until("the warning", |now| now.listed && now.warnings.len() == 1);
    // All that is looked at each second is as it was, so that what changed is not seen.
    write(text.as_bytes());
    thread::sleep(PAUSE * 2);
    assert!(watched.inputs.try_recv().is_err());
    target.as_file().set_modified(SystemTime::now()).unwrap();
    watched.until("the node", |now| now.nodes().len() == 1);
}

#[test]
fn a_directory_that_is_a_link_is_read_again_when_it_leads_elsewhere() {
    let releases = tempfile::tempdir().unwrap();
    for (name, address) in [("one", "10.0.0.1"), ("two", "10.0.0.2")] {
        let release = releases.path().join(name);
        fs::create_dir(&release).unwrap();
        fs::write(release.join("a.yaml"), node("a", address)).unwrap();
    }
    let link = releases.path().join("current");
    symlink("one", &link).unwrap();
    let mut watched = Watched::at(releases, link.clone());
    watched.until("the list", |now| now.nodes() == ["a=[10.0.0.1]"]);
    // As git-sync does it.
    let new = link.with_file_name("new");
    symlink("two", &new).unwrap();
    fs::rename(&new, &link).unwrap();
    watched.until("the other release", |now| now.nodes() == ["a=[10.0.0.2]"]);
}

#[test]
fn a_link_to_itself_is_named_and_read_once_it_is_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("loop.yaml");
    symlink("loop.yaml", &link).unwrap();
    let mut watched = Watched::on(directory);
    watched.until("the warning", |now| now.listed && now.warnings.len() == 1);
    assert!(watched.warnings[0].object.ends_with("loop.yaml"));
    watched.write(".new", &node("a", "10.0.0.1"));
    fs::rename(watched.path(".new"), &link).unwrap();
    watched.until("the file", |now| {
        now.nodes().len() == 1 && now.warnings.is_empty()
    });
}

#[test]
fn a_directory_that_appears_later_is_waited_for_and_one_that_goes_is_kept() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("later");
    let (sender, inputs) = mpsc::channel();
    let path = directory.clone();
    thread::spawn(move || run(&path, Scope::All, &sender));
    let (snapshot, warnings) = (Snapshot::default(), Vec::new());
    let mut watched = Watched {
        directory: parent,
        inputs,
        snapshot,
        warnings,
        listed: false,
    };
    watched.until("the warning", |now| now.warnings.len() == 1);
    assert!(!watched.listed);
    fs::create_dir(&directory).unwrap();
    watched.write("later/a.yaml", &node("a", "10.0.0.1"));
    watched.until("the list", |now| now.listed && now.nodes().len() == 1);
    watched.until("the mending", |now| now.warnings.is_empty());
    fs::rename(&directory, watched.path("away")).unwrap();
    watched.until("the warning", |now| now.warnings.len() == 1);
    assert_eq!(watched.nodes().len(), 1);
    fs::create_dir(&directory).unwrap();
    watched.write("later/b.yaml", &node("b", "10.0.0.2"));
    watched.until("the new directory", |now| now.nodes() == ["b=[10.0.0.2]"]);
}

#[test]
fn a_mounted_config_map_that_is_swapped_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (version, address) in [("..1", "10.0.0.1"), ("..2", "10.0.0.2")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("a.yaml"), node("a", address)).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/a.yaml", path("a.yaml")).unwrap();
    let swap = (path("..data_tmp"), path("..data"));
    let mut watched = Watched::on(directory);
    watched.until("the list", |now| now.listed);
    assert_eq!(watched.nodes(), ["a=[10.0.0.1]"]);
    symlink("..2", &swap.0).unwrap();
    fs::rename(&swap.0, &swap.1).unwrap();
    watched.until("the swap", |now| now.nodes() == ["a=[10.0.0.2]"]);
}
