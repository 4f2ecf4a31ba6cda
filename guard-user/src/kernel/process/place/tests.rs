//! Paths as hosts have them, and paths that somebody made up.

use proptest::prelude::*;

use super::*;

const ID: &str = "1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

fn place(path: &str) -> (Option<String>, Option<String>) {
    let place = Place::of(&path.replace("<id>", ID).replace("<other>", OTHER));
    (place.unit.map(|unit| unit.to_string()), place.container.map(|container| container.to_string()))
}

#[test]
fn the_paths_that_hosts_have_are_read() {
    let user_container = format!("user@1000.service/{ID}");
    for (path, unit, container) in [
        // systemd
        ("/system.slice/agent.service", Some("agent.service"), None),
        ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service"), None),
        ("/system.slice/_cgroup.service", Some("cgroup.service"), None),
        ("/init.scope", Some("init.scope"), None),
        ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope"), None),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/agent.service",
            Some("user@1000.service/agent.service"),
            None,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
            Some("user@1000.service/vte-spawn-1.scope"),
            None,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            Some("user@1000.service/init.scope"),
            None,
        ),
        ("/user.slice/user-1000.slice/user@1000.service", Some("user@1000.service"), None),
        ("/machine.slice/systemd-nspawn@web.service/payload", Some("systemd-nspawn@web.service"), None),
        (
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt",
            Some("machine-qemu\\x2d1\\x2dvm.scope"),
            None,
        ),
        // Docker
        ("/system.slice/docker-<id>.scope", None, Some(ID)),
        ("/system.slice/docker-<id>.scope/init.scope", None, Some(ID)),
        ("/docker/<id>", None, Some(ID)),
        ("/docker/<id>/system.slice/agent.service", None, Some(ID)),
        ("/docker/<id>/docker/<other>", None, Some(ID)),
        ("/my.slice/docker-<id>.scope", None, Some(ID)),
        ("/system.slice/docker.service", Some("docker.service"), None),
        ("/system.slice/docker.service/docker/<id>", None, Some(ID)),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-<id>.scope",
            None,
            Some(&user_container),
        ),
        // Podman
        ("/machine.slice/libpod-<id>.scope/container", None, Some(ID)),
        ("/machine.slice/libpod-conmon-<id>.scope", Some(&format!("libpod-conmon-{ID}.scope")), None),
        ("/libpod_parent/libpod-<id>", None, Some(ID)),
        // A quadlet is known by its unit, since any service may call its children so.
        ("/system.slice/web.service/libpod-payload-<id>", Some("web.service"), None),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope/container",
            None,
            Some(&user_container),
        ),
        // Kubernetes
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f7a.slice/cri-containerd-<id>.scope",
            None,
            Some(ID),
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-<id>.scope",
            None,
            Some(ID),
        ),
        (
            "/kubepods.slice/kubepods-pod1.slice/crio-conmon-<id>.scope",
            Some(&format!("crio-conmon-{ID}.scope")),
            None,
        ),
        ("/kubepods/burstable/pod0f7a2c1e-5f0e/<id>", None, Some(ID)),
        (
            "/system.slice/containerd.service/kubepods-burstable-pod0f7a.slice:cri-containerd:<id>",
            None,
            Some(ID),
        ),
        ("/ecs/0123456789abcdef0123456789abcdef/<id>", None, Some(ID)),
        // Others
        ("/", None, None),
        ("", None, None),
        ("/openrc.nginx", None, None),
        ("/lxc.payload.web/system.slice/agent.service", None, None),
        ("/../system.slice/agent.service", None, None),
        ("/system.slice/../agent.service", None, None),
    ] {
        let found = place(path);
        assert_eq!((found.0.as_deref(), found.1.as_deref()), (unit, container), "{path}");
    }
}

#[test]
fn names_of_a_policy_have_one_spelling() {
    for good in ["agent.service", "user@1000.service/agent.service", "user@1000.service", "a@b.scope"] {
        assert_eq!(Unit::parse(good).unwrap().to_string(), good);
    }
    for bad in [
        "",
        "agent",
        ".service",
        "a b.service",
        "system.slice/a.service",
        "user@x.service/a.service",
        "user@01.service/a.service",
        "user@+1.service/a.service",
        "user@1.service/b/a.service",
        "/a.service",
    ] {
        assert_eq!(Unit::parse(bad), Err(PlaceError::Unit), "{bad}");
    }
    for bad in ["", "1f2e3d4c5b6", "1F2E3D4C5B6A", "web", &format!("{ID}0"), &format!("1000/{ID}")] {
        assert_eq!(Container::parse(bad), Err(PlaceError::Container), "{bad}");
    }
    let whole = Container::parse(ID).unwrap();
    let short = Container::parse(&ID[..12]).unwrap();
    let of_user = Container::parse(&format!("user@7.service/{ID}")).unwrap();
    assert!(whole.names(&whole) && short.names(&whole) && !whole.names(&short));
    assert!(!short.names(&of_user) && !of_user.names(&whole) && of_user.names(&of_user));
}

/// What an unprivileged process might call cgroups that it may make.
fn made_up() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just(format!("docker-{OTHER}.scope")),
        Just(OTHER.to_owned()),
        Just("system.slice".to_owned()),
        Just("bank.service".to_owned()),
        Just("containerd.service".to_owned()),
        Just("user@0.service".to_owned()),
        // No directory is called `..`; in a path it means what stands outside, which is tested above.
        "[a-z@.:-]{1,12}".prop_filter("not a directory's name", |name| name != ".."),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| [vec![String::new()], parts].concat().join("/"))
}

proptest! {
    #[test]
    fn any_text_is_read(path in "\\PC{0,80}") {
        let _place = Place::of(&path);
    }

    #[test]
    fn nobody_below_a_service_or_a_container_is_taken_for_another(inner in made_up()) {
        let below = |path: &str| place(&format!("{path}{inner}"));
        prop_assert_eq!(below("/system.slice/agent.service"), (Some("agent.service".to_owned()), None));
        prop_assert_eq!(below("/user.slice/user-7.slice/session-1.scope"), (Some("session-1.scope".to_owned()), None));
        prop_assert_eq!(below("/system.slice/docker-<id>.scope"), (None, Some(ID.to_owned())));
        prop_assert_eq!(below("/docker/<id>"), (None, Some(ID.to_owned())));
        prop_assert_eq!(below("/kubepods.slice/kubepods-pod1.slice/crio-<id>.scope"), (None, Some(ID.to_owned())));
    }

    #[test]
    fn what_a_user_starts_carries_the_user(user: u32, inner in made_up()) {
        let manager = format!("user@{user}.service");
        let (unit, container) = place(&format!("/user.slice/user-{user}.slice/{manager}{inner}"));
        for found in [unit, container].into_iter().flatten() {
            prop_assert!(found == manager || found.starts_with(&format!("{manager}/")), "{}", found);
        }
    }

    #[test]
    fn what_is_found_reads_back(path in made_up()) {
        let place = Place::of(&path);
        if let Some(unit) = place.unit {
            prop_assert_eq!(Unit::parse(&unit.to_string()).ok(), Some(unit));
        }
        if let Some(container) = place.container {
            prop_assert_eq!(Container::parse(&container.to_string()).ok(), Some(container));
        }
    }
}
