//! The sides that are compared: each knows which programs an ADD and a DEL of it consist of.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::call::{Answer, Attachment, Call, Verb};
use crate::world::World;

/// Which programs are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// The plugin under test.
    Podwire,
    /// The reference `ptp` (which calls `host-local`).
    Ptp,
    /// The reference `ptp` and then `portmap`.
    PtpAndPortmap,
    /// The floor program.
    Floor,
}

/// Addresses of which families a pod gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4.
    V4,
    /// IPv4 and IPv6.
    Dual,
}

/// One side of a comparison.
#[derive(Debug, Clone)]
pub struct Side {
    /// What the report calls it.
    pub name: String,
    /// What is called.
    pub programs: Programs,
    /// Whether there is a mapping of a host port.
    pub mapping: bool,
    /// The families of the pod.
    pub families: Families,
    /// Where its leases are.
    pub leases: PathBuf,
    /// Where an agent that enforces policies has its files, if there is one.
    pub run_dir: Option<PathBuf>,
}

/// The time of one ADD and the DEL that belongs to it.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// ADD.
    pub add: Duration,
    /// How long processors worked for the ADD.
    pub cpu: Duration,
    /// DEL.
    pub del: Duration,
}

impl Side {
    /// A side with leases of its own in `world`.
    pub fn new(world: &World, name: &str, programs: Programs) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            programs,
            mapping: false,
            families: Families::V4,
            leases: world.directory(&format!("leases-{}", name.replace([' ', ',', '+'], "-")))?,
            run_dir: None,
        })
    }

    /// The same with one mapping of a host port.
    pub fn with_mapping(mut self) -> Self {
        self.mapping = true;
        self
    }

    /// The same with both families.
    pub fn dual(mut self) -> Self {
        self.families = Families::Dual;
        self
    }

    /// The same with an agent that enforces policies and has its files here.
    pub fn beside(mut self, run_dir: &Path) -> Self {
        self.run_dir = Some(run_dir.to_owned());
        self
    }

    /// ADD, then DEL.
    pub fn cycle(&self, world: &World, attachment: &Attachment) -> Result<Pair, String> {
        let added = self.add(world, attachment)?;
        let del = self.del(world, attachment, &added.output)?;
        let (add, cpu) = (added.time, added.cpu);
        Ok(Pair { add, cpu, del })
    }

    /// ADD: what it took, and its result for later DELs.
    pub fn add(&self, world: &World, at: &Attachment) -> Result<Answer, String> {
        let first = self.first_call(world, Verb::Add, at, None).make()?;
        let Some(second) = self.portmap_call(world, Verb::Add, at, &first.output) else {
            return Ok(first);
        };
        let second = second.make()?;
        Ok(Answer {
            time: first.time + second.time,
            cpu: first.cpu + second.cpu,
            output: second.output,
        })
    }

    /// DEL: its time.
    pub fn del(&self, world: &World, at: &Attachment, result: &str) -> Result<Duration, String> {
        let mut time = Duration::ZERO;
        // A chain is undone from its end.
        if let Some(call) = self.portmap_call(world, Verb::Del, at, result) {
            time += call.make()?.time;
        }
        Ok(time
            + self
                .first_call(world, Verb::Del, at, Some(result))
                .make()?
                .time)
    }

    /// The call of the plugin that makes the link.
    pub fn first_call(
        &self,
        world: &World,
        verb: Verb,
        attachment: &Attachment,
        result: Option<&str>,
    ) -> Call {
        let call = |program: &Path, arguments: &[_], input| {
            Call::new(
                program,
                arguments,
                verb,
                attachment,
                &world.reference,
                input,
            )
        };
        match self.programs {
            Programs::Podwire => call(
                &world.podwire,
                &[],
                self.configuration("podwire", self.mapping, result),
            ),
            Programs::Ptp | Programs::PtpAndPortmap => call(
                &world.reference.join("ptp"),
                &[],
                self.configuration("ptp", false, result),
            ),
            Programs::Floor => {
                let input = self.configuration("floor", false, result);
                call(&world.floor, &[self.leases.clone().into()], input)
            }
        }
    }

    fn portmap_call(
        &self,
        world: &World,
        verb: Verb,
        attachment: &Attachment,
        result: &str,
    ) -> Option<Call> {
        let program = world.reference.join("portmap");
        let input = self.configuration("portmap", self.mapping, Some(result));
        let call = || Call::new(&program, &[], verb, attachment, &world.reference, input);
        (self.programs == Programs::PtpAndPortmap).then(call)
    }

    /// What a runtime writes to the standard input of a plugin.
    fn configuration(&self, kind: &str, mapping: bool, previous: Option<&str>) -> String {
        let v6 = match self.families {
            Families::V4 => "",
            Families::Dual => r#",[{"subnet":"fd00:88::/64"}]"#,
        };
        let default_v6 = match self.families {
            Families::V4 => "",
            Families::Dual => r#",{"dst":"::/0"}"#,
        };
        let directory = self.leases.parent().unwrap_or(&self.leases).display();
        // The name of the network is the name of the directory inside `dataDir`.
        let network = self
            .leases
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let ipam = format!(
            r#","ipam":{{"type":"host-local","dataDir":"{directory}","ranges":[[{{"subnet":"10.88.0.0/16"}}]{v6}],"routes":[{{"dst":"0.0.0.0/0"}}{default_v6}]}}"#
        );
        let ipam = if kind == "portmap" { "" } else { &ipam };
        let mappings = if mapping {
            r#","runtimeConfig":{"portMappings":[{"HostPort":18080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]}"#
        } else {
            ""
        };
        let previous = previous.map_or(String::new(), |result| {
            format!(r#","prevResult":{}"#, result.trim())
        });
        let agent = self.run_dir.as_ref().map_or(String::new(), |path| {
            format!(r#","networkPolicy":true,"runDir":"{}""#, path.display())
        });
        format!(
            r#"{{"cniVersion":"1.0.0","name":"{network}","type":"{kind}","mtu":1500,"capabilities":{{"portMappings":true}}{agent}{ipam}{mappings}{previous}}}"#
        )
    }
}
