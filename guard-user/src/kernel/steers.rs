//! One instance of `steer` for each protected network namespace.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use aya::EbpfLoader;
use aya::programs::{Program, SkLookup, links::FdLink};
use guard_common::NETNS_UNSET;

use super::load::{ProgramStatus, on_pinned_maps, verify};
use super::maps::lock;
use super::object::object;
use super::pins::Pins;

/// Loads one instance of `steer` for each network namespace, on the maps that all share.
pub(super) struct Steers {
    loader: Mutex<EbpfLoader<'static>>,
    /// The object, and where in it the namespace's cookie belongs.
    object: Mutex<(Vec<u8>, usize)>,
}

impl Steers {
    /// `links` is the directory of this start. The maps must be there already.
    pub(super) fn new(pins: &Pins, links: &Path) -> anyhow::Result<Self> {
        let object = object()?.to_vec();
        let unset = NETNS_UNSET.to_ne_bytes();
        let mut places = memchr::memmem::find_iter(&object, &unset);
        let (Some(at), None) = (places.next(), places.next()) else {
            anyhow::bail!("the kernel object has no one place for the namespace; build it again")
        };
        Ok(Self { loader: Mutex::new(on_pinned_maps(pins, links)), object: Mutex::new((object, at)) })
    }

    /// Attaches an instance to the namespace `netns` with this `cookie` and pins its link as `pin`. It runs after every
    /// other `sk_lookup` program that is there. No descriptor stays open.
    pub(super) fn attach(&self, cookie: u64, netns: impl AsFd, pin: &Path) -> anyhow::Result<ProgramStatus> {
        let mut bpf = {
            let mut object = lock(&self.object);
            let (bytes, at) = &mut *object;
            if let Some(place) = bytes.get_mut(*at..at.saturating_add(size_of::<u64>())) {
                place.copy_from_slice(&cookie.to_ne_bytes());
            }
            lock(&self.loader).load(bytes).context("cannot open the kernel maps")?
        };
        let status = verify(&mut bpf, "steer")?;
        let Some(Program::SkLookup(program)) = bpf.program_mut("steer") else {
            anyhow::bail!("program steer has an unexpected type; build the kernel object again")
        };
        let link: FdLink = steer(program, netns).context("cannot attach program steer")?;
        // In one step over what an attempt before may have left there: at no moment is there none.
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        let fresh = pin.with_file_name(format!("new-{name}"));
        let _none = fs::remove_file(&fresh);
        link.pin(&fresh).context("cannot pin the link of program steer")?;
        fs::rename(&fresh, pin).context("cannot name the link of program steer")?;
        Ok(status)
    }
}

fn steer(program: &mut SkLookup, netns: impl AsFd) -> anyhow::Result<FdLink> {
    let id = program.attach(netns)?;
    Ok(program.take_link(id)?.into())
}
