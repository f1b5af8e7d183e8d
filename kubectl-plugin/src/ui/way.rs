//! The question that two clicks ask, in the words of `why`.

use super::view::View;

/// What `why` is asked for: a Service answers no ping, so without a port its first one is meant.
pub fn destination(view: &View, given: &str) -> String {
    let service = view.services.iter().find(|service| service.id == given);
    let port = service.and_then(|service| service.ports.first());
    let front = port.and_then(|port| {
        let (_, number) = port.fronts.first()?.rsplit_once(':')?;
        Some((number, &port.protocol))
    });
    match front {
        Some((port, protocol)) => format!("{given}:{port}/{protocol}"),
        None => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::{PortView, ServiceView};
    use super::*;

    #[test]
    fn a_service_is_asked_for_with_its_first_port() {
        let port = PortView {
            protocol: "udp".into(),
            fronts: vec!["[fd00::1]:53".into(), "*:30053".into()],
            ..PortView::default()
        };
        let service = ServiceView {
            id: "default/dns".into(),
            ports: vec![port],
            ..ServiceView::default()
        };
        let view = View {
            services: vec![service],
            ..View::default()
        };
        assert_eq!(destination(&view, "default/dns"), "default/dns:53/udp");
        for other in ["default/dns:54", "default/a", "10.10.1.2:80"] {
            assert_eq!(destination(&view, other), other);
        }
    }
}
