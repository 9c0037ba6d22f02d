//! The road from the disk to a bundle and its VMs, shared by start and reload.

use std::path::Path;
use std::sync::Arc;

use crate::bundle::{self, Bundle, Snapshot};
use crate::config::{Config, Errors};
use crate::lua::{App, Loader, Ticket, Unloaded, Vm};
use crate::outgoing::producers::Producers;

use super::Adjust;

/// Reads and checks the files; the error is complete, and written for people.
pub(super) fn bundle(path: &Path, number: u64, adjust: Option<&Adjust>) -> Result<Bundle, String> {
    adjusted(bundle::load(path, number), adjust)
}

/// Checks a snapshot; the error is complete, and written for people.
pub(super) fn check(
    snapshot: Snapshot<'_>,
    number: u64,
    adjust: Option<&Adjust>,
) -> Result<Bundle, String> {
    adjusted(bundle::check(snapshot, number), adjust)
}

fn adjusted(bundle: Result<Bundle, Errors>, adjust: Option<&Adjust>) -> Result<Bundle, String> {
    let mut bundle = bundle.map_err(|errors| errors.to_string())?;
    if let Some(adjust) = adjust {
        let mut config = (*bundle.config).clone();
        adjust(&mut config);
        bundle.config = Arc::new(config);
    }
    Ok(bundle)
}

/// What belongs to the process follows the configuration in force.
pub(super) fn put_in_force(producers: &Producers, app: &App, config: &Config) {
    producers.put_in_force(config);
    app.state.put_in_force(config);
}

/// Builds one VM for each worker, and runs init.lua in it. The bundle is good when all VMs are built.
pub(super) fn vms(
    loader: &mut Loader,
    ticket: &Ticket,
    bundle: &Arc<Bundle>,
    app: &Arc<App>,
) -> Result<Vec<Vm>, Unloaded> {
    app.state
        .prepare(&bundle.config)
        .map_err(Unloaded::Failed)?;
    let (bundle, app) = (bundle.clone(), app.clone());
    loader.run(ticket, move |pulse| {
        (0..bundle.config.lua.workers)
            .map(|_| {
                let mut vm = Vm::build(&bundle, &app, pulse).map_err(|error| error.to_string())?;
                vm.start(pulse).map_err(|error| error.to_string())?;
                Ok(vm)
            })
            .collect()
    })
}
