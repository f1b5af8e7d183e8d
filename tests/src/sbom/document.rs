//! What the image is made of, in the words of SPDX 2.3.

use std::error::Error;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spdx::Expression;

use crate::crates::{Identity, MadeOf};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-image";
const RUST: &str = "SPDXRef-rust-std";
const C_LIBRARY: &str = "SPDXRef-c-library";

/// The document. `programs` are names and checksums of the files in the image.
pub fn spdx(
    made_of: &MadeOf,
    programs: &[(String, String)],
    created: Timestamp,
) -> Result<Value, Box<dyn Error>> {
    let version = version_of(made_of, "podwire-agent")?;
    let mut image = package(IMAGE, "podwire-image", Some(version), "Apache-2.0")?;
    image["primaryPackagePurpose"] = json!("CONTAINER");
    let mut packages = vec![image];
    packages.push(package(
        RUST,
        "rust-std",
        Some(&made_of.rust),
        "MIT OR Apache-2.0",
    )?);
    let (library, library_version) = &made_of.c_library;
    let licence = if *library == "musl" {
        "MIT"
    } else {
        "LGPL-2.1-or-later"
    };
    packages.push(package(
        C_LIBRARY,
        library,
        library_version.as_deref(),
        licence,
    )?);
    for (identity, found) in &made_of.crates {
        let mut one = package(
            &id(identity),
            &identity.0,
            Some(&identity.1),
            &found.licence,
        )?;
        if let Some(checksum) = &found.checksum {
            one["checksums"] = checksum_of(checksum);
            one["externalRefs"] = locator(&format!("pkg:cargo/{}@{}", identity.0, identity.1));
        }
        if let Some((_, checksum)) = programs.iter().find(|(name, _)| *name == identity.0) {
            one["checksums"] = checksum_of(checksum);
            one["primaryPackagePurpose"] = json!("APPLICATION");
        }
        packages.push(one);
    }
    let relationships = relationships(made_of)?;
    let digest = Sha256::digest(serde_json::to_vec(&(&packages, &relationships))?);
    let name = format!("podwire-{version}");
    let created = created.to_string();
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/{name}-{}", &hex(&digest)[..32]),
        "creationInfo": {"created": created, "creators": ["Tool: podwire-sbom"]},
        "packages": packages,
        "relationships": relationships,
    }))
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn version_of<'a>(made_of: &'a MadeOf, name: &str) -> Result<&'a str, String> {
    let mut all = made_of.crates.keys();
    let found = all.find(|identity| identity.0 == name);
    found
        .map(|identity| identity.1.as_str())
        .ok_or_else(|| format!("cargo tree does not name {name}"))
}

/// SPDX allows letters, digits, `.` and `-` in an identifier.
fn id(identity: &Identity) -> String {
    let text = format!("SPDXRef-crate-{}-{}", identity.0, identity.1);
    text.replace('_', ".").replace('+', "-")
}

fn package(
    id: &str,
    name: &str,
    version: Option<&str>,
    licence: &str,
) -> Result<Value, Box<dyn Error>> {
    // Old manifests have `MIT/Apache-2.0`.
    let licence = Expression::canonicalize(licence)
        .map_err(|error| format!("{name} has the licence {licence:?}: {error}"))?
        .unwrap_or_else(|| licence.to_owned());
    let purl = match version {
        Some(version) => format!("pkg:generic/{name}@{version}"),
        None => format!("pkg:generic/{name}"),
    };
    let mut package = json!({
        "SPDXID": id,
        "name": name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "supplier": "NOASSERTION",
        "externalRefs": locator(&purl),
    });
    if let Some(version) = version {
        package["versionInfo"] = json!(version);
    }
    Ok(package)
}

fn locator(purl: &str) -> Value {
    json!([{
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    }])
}

fn checksum_of(sha256: &str) -> Value {
    json!([{"algorithm": "SHA256", "checksumValue": sha256}])
}

fn relationships(made_of: &MadeOf) -> Result<Vec<Value>, Box<dyn Error>> {
    let relation = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let mut all = vec![relation(DOCUMENT, "DESCRIBES", IMAGE)];
    for name in ["podwire", "podwire-agent"] {
        let program = id(&(name.to_owned(), version_of(made_of, name)?.to_owned()));
        all.push(relation(IMAGE, "CONTAINS", &program));
        all.push(relation(&program, "STATIC_LINK", RUST));
        all.push(relation(&program, "STATIC_LINK", C_LIBRARY));
    }
    for (identity, found) in &made_of.crates {
        for needed in &found.needs {
            let (from, to) = (id(identity), id(needed));
            // What only runs in the compiler is not in the image.
            let is_linked = found.is_linked && made_of.crates[needed].is_linked;
            all.push(if is_linked {
                relation(&from, "DEPENDS_ON", &to)
            } else {
                relation(&to, "BUILD_DEPENDENCY_OF", &from)
            });
        }
    }
    Ok(all)
}
