//! What is taken out of nftables, whatever the record of an attachment still says.

use std::fs;

use serde_json::{Value, json};

use super::{RECORDS, mapping, with_ports};
use crate::node::{Call, config, names, on_a_node};

#[test]
fn a_record_that_was_truncated_in_place_leaves_nothing_of_its_attachment_in_the_kernel() {
    a_record_without_its_content_leaves_nothing(|record| record.clear());
}

#[test]
fn a_record_that_lost_some_of_its_content_leaves_nothing_of_its_attachment_in_the_kernel() {
    let losses: [fn(&mut Value); 5] = [
        |record| *record = json!({}),
        |record| record["containerID"] = "another".into(),
        |record| record["hostPorts"] = Value::Null,
        |record| record["addresses"] = Value::Null,
        |record| drop(record.as_object_mut().unwrap().remove("chained")),
    ];
    for lose in losses {
        a_record_without_its_content_leaves_nothing(move |text| {
            let mut record = serde_json::from_str(text).unwrap();
            lose(&mut record);
            *text = record.to_string();
        });
    }
}

fn a_record_without_its_content_leaves_nothing(lose: impl FnOnce(&mut String) + Send + 'static) {
    on_a_node(move |node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
        let mut config = with_ports(json!([mapping("", "tcp", 80), mapping("", "udp", 80)]));
        config["ipMasq"] = true.into();
        let other = with_ports(json!([{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]));
        Call::new("podwire", "ADD", &a, &config)
            .with("CNI_ARGS", arguments)
            .succeed();
        let record = format!("{RECORDS}/{}", names(RECORDS)[1]);
        Call::new("podwire", "ADD", &b, &other).succeed();
        let mut content = fs::read_to_string(&record).unwrap();
        lose(&mut content);
        fs::write(&record, content).unwrap();
        Call::new("podwire", "DEL", &a, &config).succeed();
        let ruleset = node.ruleset();
        assert!(
            ruleset.contains("10.1.2.3 . 80") && !ruleset.contains("10.1.2.2"),
            "{ruleset}"
        );
        assert!(!fs::exists(&record).unwrap());
        Call::new("podwire", "DEL", &b, &other).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_record_that_is_gone_leaves_nothing_of_its_attachment_in_the_kernel() {
    let losses: [fn(); 3] = [
        || {
            let record = podwire::attachment::host_link_name("a", "eth0");
            fs::remove_file(format!("{RECORDS}/{record}.json")).unwrap();
        },
        || fs::remove_dir_all(RECORDS).unwrap(),
        || {
            fs::remove_dir_all("/run/podwire").unwrap();
            fs::write("/run/podwire", "").unwrap();
        },
    ];
    for lose in losses {
        on_a_node(move |node| {
            let (a, b) = (node.container("a"), node.container("b"));
            let mut config = with_ports(json!([mapping("", "tcp", 80), mapping("", "udp", 80)]));
            config["ipMasq"] = true.into();
            let other =
                with_ports(json!([{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]));
            Call::new("podwire", "ADD", &a, &config).succeed();
            Call::new("podwire", "ADD", &b, &other).succeed();
            lose();
            let del = |container, config| {
                let answer = Call::new("podwire", "DEL", container, config).run();
                assert!(answer.success, "{answer:?}");
                answer.stderr.contains("is gone or cannot be read")
            };
            assert!(del(&a, &config));
            let ruleset = node.ruleset();
            assert!(
                ruleset.contains("10.1.2.3 . 80") && !ruleset.contains("10.1.2.2"),
                "{ruleset}"
            );
            assert!(!del(&a, &config), "there is nothing any more");
            del(&b, &other);
            node.assert_nothing_mapped();
            node.ask("nft", &["flush", "ruleset"]);
            assert!(!del(&a, &config), "without tables");
        });
    }
}

#[test]
fn a_record_of_ptp_or_portmap_that_is_gone_leaves_nothing_either() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut link = config("ptp", &["10.1.2.0/24"]);
        link["ipMasq"] = true.into();
        let mut chained = with_ports(json!([mapping("", "tcp", 80)]));
        chained["type"] = "portmap".into();
        let previous = Call::new("ptp", "ADD", &container, &link).succeed();
        let ports = |verb| Call::new("portmap", verb, &container, &chained).after(&previous);
        ports("ADD").succeed();
        let name = podwire::attachment::host_link_name("a", "eth0");
        fs::remove_file(format!("{RECORDS}/{name}.portmap.json")).unwrap();
        ports("DEL").succeed();
        let ruleset = node.ruleset();
        assert!(!ruleset.contains("8080"), "{ruleset}");
        assert!(ruleset.contains("10.1.2.2 comment"), "of ptp: {ruleset}");
        fs::remove_dir_all(RECORDS).unwrap();
        Call::new("ptp", "DEL", &container, &link).succeed();
        node.assert_nothing_mapped();
    });
}

#[test]
fn a_truncated_record_of_a_chained_plugin_takes_nothing_from_the_other_one() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = with_ports(json!([]));
        config["ipMasq"] = true.into();
        let previous = Call::new("podwire", "ADD", &container, &config).succeed();
        let mut chained = with_ports(json!([mapping("", "tcp", 80)]));
        chained["type"] = "portmap".into();
        let call = |verb| Call::new("portmap", verb, &container, &chained).after(&previous);
        call("ADD").succeed();
        let is_chained = |name: &String| name.ends_with(".portmap.json");
        let record = names(RECORDS).into_iter().find(is_chained).unwrap();
        fs::write(format!("{RECORDS}/{record}"), "").unwrap();
        call("DEL").succeed();
        let ruleset = node.ruleset();
        assert!(!ruleset.contains("8080"), "{ruleset}");
        assert!(ruleset.contains("10.1.2.2 comment"), "{ruleset}");
        Call::new("podwire", "CHECK", &container, &config)
            .after(&previous)
            .succeed();
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn containers_whose_ids_start_alike_do_not_take_each_other_s_host_ports() {
    for truncated in [false, true] {
        on_a_node(move |node| {
            let [a, b] = ["a", "b"].map(|end| node.container(&format!("{}{end}", "f".repeat(63))));
            let config = with_ports(json!([mapping("", "tcp", 80)]));
            Call::new("podwire", "ADD", &a, &config).succeed();
            let record = format!("{RECORDS}/{}", names(RECORDS)[1]);
            Call::new("podwire", "ADD", &b, &config).succeed();
            if truncated {
                fs::write(&record, "").unwrap();
            }
            Call::new("podwire", "DEL", &a, &config).succeed();
            let ruleset = node.ruleset();
            assert!(ruleset.contains("10.1.2.3 . 80"), "{ruleset}");
            assert!(!ruleset.contains("10.1.2.2"), "{ruleset}");
            Call::new("podwire", "DEL", &b, &config).succeed();
            node.assert_clean();
        });
    }
}

#[test]
fn elements_with_the_comment_of_an_earlier_version_are_removed() {
    for truncated in [false, true] {
        on_a_node(move |node| {
            let [a, b] = ["a", "b"].map(|end| node.container(&format!("{}{end}", "f".repeat(63))));
            let config = with_ports(json!([mapping("", "tcp", 80)]));
            let other =
                with_ports(json!([{"hostPort": 81, "containerPort": 80, "protocol": "tcp"}]));
            Call::new("podwire", "ADD", &a, &config).succeed();
            let record = format!("{RECORDS}/{}", names(RECORDS)[1]);
            Call::new("podwire", "ADD", &b, &other).succeed();
            let nft = |words: &str| {
                let words: Vec<&str> = words.split(' ').collect();
                node.ask("nft", &words)
            };
            let former = format!("comment \"{}/eth0\"", "f".repeat(32));
            // The first one leads elsewhere than the record says.
            for (port, target) in [(8080, "10.1.2.2 . 81"), (81, "10.1.2.3 . 80")] {
                let map = "inet podwire-hostports hostports-v4";
                nft(&format!("delete element {map} {{ tcp . {port} }}"));
                nft(&format!(
                    "add element {map} {{ tcp . {port} {former} : {target} }}"
                ));
            }
            if truncated {
                fs::write(&record, "").unwrap();
            }
            Call::new("podwire", "DEL", &a, &config).succeed();
            let ruleset = node.ruleset();
            assert!(ruleset.contains("10.1.2.3 . 80"), "{ruleset}");
            assert!(!ruleset.contains("8080"), "{ruleset}");
            Call::new("podwire", "DEL", &b, &other).succeed();
            node.assert_clean();
        });
    }
}

#[test]
fn elements_that_are_gone_or_another_container_s_do_not_stop_a_removal() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let config = with_ports(json!([mapping("", "tcp", 80), mapping("", "udp", 80)]));
        Call::new("podwire", "ADD", &a, &config).succeed();
        // The record of an earlier version, which kept both spellings.
        let path = format!("{RECORDS}/{}", names(RECORDS)[1]);
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let ports = record["hostPorts"].as_array_mut().unwrap();
        let twice = json!({
            "protocol": "udp", "hostIP": "0.0.0.0", "hostPort": 8080, "containerPort": 81,
        });
        ports.push(twice);
        fs::write(&path, record.to_string()).unwrap();
        let tcp = with_ports(json!([mapping("", "tcp", 80)]));
        Call::new("podwire", "ADD", &b, &tcp).succeed();
        let element = "{ udp . 8080 }";
        node.ask(
            "nft",
            &[
                "delete",
                "element",
                "inet",
                "podwire-hostports",
                "hostports-v6",
                element,
            ],
        );
        Call::new("podwire", "DEL", &a, &config).succeed();
        let ruleset = node.ruleset();
        assert!(
            ruleset.contains("10.1.2.3 . 80") && !ruleset.contains("10.1.2.2"),
            "{ruleset}"
        );
        Call::new("podwire", "DEL", &b, &config).succeed();
        node.assert_clean();
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn where_the_kernel_has_no_nftables_del_and_gc_find_nothing_to_take_back() {
    use crate::trace::{Missing, run_without};
    for plugin in ["podwire", "portmap"] {
        for content in ["as written", "cut off", "gone"] {
            on_a_node(move |node| {
                let container = node.container("a");
                let link = config("ptp", &["10.1.2.0/24"]);
                let mut config =
                    with_ports(json!([mapping("", "tcp", 80), mapping("", "udp", 80)]));
                config["ipMasq"] = (plugin == "podwire").into();
                let mut gc = config.clone();
                gc["cni.dev/valid-attachments"] = json!([]);
                let add = Call::new(plugin, "ADD", &container, &config);
                let del = Call::new(plugin, "DEL", &container, &config);
                let gc = Call::new(plugin, "GC", &container, &gc);
                for call in [&del, &gc] {
                    for missing in [Missing::Rights, Missing::Netlink, Missing::Subsystem] {
                        match plugin {
                            "podwire" => add.succeed(),
                            _ => {
                                let previous = Call::new("ptp", "ADD", &container, &link).succeed();
                                add.clone().after(&previous).succeed()
                            }
                        };
                        let name = names(RECORDS).into_iter().find(|name| name != "lock");
                        let record = format!("{RECORDS}/{}", name.unwrap());
                        match content {
                            "cut off" => fs::write(&record, "").unwrap(),
                            "gone" => fs::remove_file(&record).unwrap(),
                            _ => {}
                        }
                        let printed = run_without(missing, call);
                        if matches!(missing, Missing::Rights) {
                            // What may not be asked is not taken for nothing.
                            let found = content == "as written" || call.verb == "DEL";
                            assert!(!found || printed.contains("Operation not permitted"));
                        } else {
                            assert_eq!(printed, "", "{missing:?} {content} {}", call.verb);
                            let left = call.verb == "DEL" || content == "as written";
                            assert!(!left || !fs::exists(&record).unwrap(), "{missing:?}");
                        }
                        let _ = fs::remove_file(&record);
                        Call::new("ptp", "DEL", &container, &link).succeed();
                        node.ask("nft", &["flush", "ruleset"]);
                        node.assert_clean();
                    }
                }
            });
        }
    }
}

#[test]
fn an_add_again_with_other_host_ports_takes_the_former_ones_out_of_the_kernel() {
    let losses: [fn(&str); 2] = [|_| (), |record| fs::write(record, "").unwrap()];
    for lose in losses {
        on_a_node(move |node| {
            let (a, b) = (node.container("a"), node.container("b"));
            let link = config("ptp", &["10.1.2.0/24"]);
            let previous = |container| Call::new("ptp", "ADD", container, &link).succeed();
            let (first, of_b) = (previous(&a), previous(&b));
            let mut second = first.clone();
            second["ips"][0]["address"] = "10.1.2.9/24".into();
            let port =
                |port: u16| json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"});
            let call = |container, verb, ports: Value, result| {
                let mut config = with_ports(ports);
                config["type"] = "portmap".into();
                Call::new("portmap", verb, container, &config).after(result)
            };
            let name = podwire::attachment::host_link_name("a", "eth0");
            let record = format!("{RECORDS}/{name}.portmap.json");
            call(&b, "ADD", json!([port(8080)]), &of_b).succeed();
            call(&a, "ADD", json!([port(8080)]), &first).succeed();
            assert!(node.ruleset().contains("10.1.2.2 . 80"));
            for (ports, gone) in [(json!([port(8081)]), "10.1.2.2"), (json!([]), "10.1.2.9")] {
                lose(&record);
                call(&a, "ADD", ports, &second).succeed();
                let ruleset = node.ruleset();
                // The port of the first time is the other container's again.
                assert!(ruleset.contains("10.1.2.3 . 80"), "{ruleset}");
                assert!(!ruleset.contains(gone), "{ruleset}");
            }
            call(&b, "DEL", json!([]), &of_b).succeed();
            node.assert_nothing_mapped();
        });
    }
}

#[test]
fn an_add_again_over_the_unreadable_record_of_the_other_plugin_takes_nothing_from_that_one() {
    on_a_node(|node| {
        let a = node.container("a");
        let mut link = config("ptp", &["10.1.2.0/24"]);
        link["ipMasq"] = true.into();
        let first = Call::new("ptp", "ADD", &a, &link).succeed();
        let mut ports = with_ports(json!([mapping("", "tcp", 80)]));
        ports["type"] = "portmap".into();
        let add = || {
            Call::new("portmap", "ADD", &a, &ports)
                .after(&first)
                .succeed()
        };
        add();
        let name = podwire::attachment::host_link_name("a", "eth0");
        fs::write(format!("{RECORDS}/{name}.json"), "").unwrap();
        let before = node.ruleset();
        add();
        assert_eq!(node.ruleset(), before);
        Call::new("portmap", "DEL", &a, &ports)
            .after(&first)
            .succeed();
        Call::new("ptp", "DEL", &a, &link).succeed();
        node.assert_nothing_mapped();
    });
}

#[test]
fn where_no_lock_of_the_records_can_be_made_del_succeeds_all_the_same() {
    on_a_node(|node| {
        fs::create_dir_all(RECORDS).unwrap();
        node.ask("mount", &["--bind", RECORDS, RECORDS]);
        node.ask("mount", &["-o", "remount,bind,ro", RECORDS]);
        let container = node.container("a");
        let config = config("podwire", &["10.1.2.0/24"]);
        for verb in ["ADD", "DEL", "DEL"] {
            Call::new("podwire", verb, &container, &config).succeed();
        }
        let mut gc = config.clone();
        gc["cni.dev/valid-attachments"] = json!([]);
        Call::new("podwire", "GC", &container, &gc).succeed();
        assert!(!fs::exists(format!("{RECORDS}/lock")).unwrap());
        node.ask("umount", &[RECORDS]);
    });
}

#[test]
fn an_add_with_another_address_after_a_lost_namespace_leaves_nothing_of_the_first_one() {
    on_a_node(|node| {
        let mut first = with_ports(json!([mapping("", "tcp", 80), mapping("", "udp", 80)]));
        first["ipMasq"] = true.into();
        first["cniVersion"] = "1.0.0".into();
        first["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.2.2/24", "gateway": "10.1.2.1"}]});
        let mut second = with_ports(json!([]));
        second["ipMasq"] = true.into();
        second["cniVersion"] = "1.0.0".into();
        second["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]});
        let of_reference = |verb, container: &_, config: &_| {
            let path = format!("{}:{}", crate::node::OURS, crate::node::REFERENCE);
            Call::new("podwire", verb, container, config).with("CNI_PATH", path)
        };
        let a = node.container("a");
        of_reference("ADD", &a, &first).succeed();
        node.remove(a);
        let name = podwire::attachment::host_link_name("a", "eth0");
        // The kernel takes its time to remove a namespace.
        node.ask("ip", &["link", "delete", &name]);
        let a = node.container("a");
        of_reference("ADD", &a, &second).succeed();
        let ruleset = node.ruleset();
        assert!(ruleset.contains("10.1.2.3 comment"), "{ruleset}");
        assert!(!ruleset.contains("10.1.2.2"), "{ruleset}");
        of_reference("DEL", &a, &second).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_record_that_says_less_than_the_kernel_has_leaves_nothing_of_its_attachment_there() {
    let changes: [fn(&mut Value); 4] = [
        |record| record["addresses"] = json!([]),
        |record| record["hostPorts"] = json!([]),
        |record| record["hostPorts"][0]["hostPort"] = 9090.into(),
        |record| record["ipMasq"] = json!([]),
    ];
    for change in changes {
        a_record_without_its_content_leaves_nothing(move |text| {
            let mut record = serde_json::from_str(text).unwrap();
            change(&mut record);
            *text = record.to_string();
        });
    }
}
