//! A device is held against the CPU by a program of `benches`; this builds it with the device's feature and runs it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::command;
use crate::programs::{Program, built};

/// What `cargo xtask device-check` is asked for.
#[derive(Args)]
pub(crate) struct DeviceCheckArguments {
    /// Device: cpu, wgpu, tch, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// For wgpu on Vulkan: shaders as SPIR-V instead of WGSL
    #[arg(long)]
    spirv: bool,
    /// Passed on, e.g. `--only operations` or `--json`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs the check; whether the device passes.
pub(crate) fn run(root: &Path, arguments: &DeviceCheckArguments) -> Result<bool> {
    let feature = feature(&arguments.device, arguments.spirv)?;
    let features = feature.map(|feature| format!("easyedit-benches/{feature}"));
    let features: Vec<&str> = features.as_deref().into_iter().collect();
    let program = built(root, &Program::Binary("device-check"), &features)?;
    let mut line = command(root, &[&program.to_string_lossy(), "--device", &arguments.device]);
    let status = line.args(&arguments.arguments).status().context("cannot start the check")?;
    if status.code().is_none() {
        // The table's last line, which has no result, is what the driver did not survive.
        println!();
        bail!("the check was ended from outside ({status}): the driver of {} crashed in the check named last", arguments.device);
    }
    Ok(status.success())
}

/// The cargo feature that compiles a device in; none for the CPU, which is always there.
fn feature(device: &str, spirv: bool) -> Result<Option<&'static str>> {
    match (device.split(':').next().unwrap_or_default(), spirv) {
        ("cpu", false) => Ok(None),
        ("wgpu", false) => Ok(Some("wgpu")),
        ("wgpu", true) => Ok(Some("vulkan")),
        ("cuda", false) => Ok(Some("cuda")),
        ("tch", false) => Ok(Some("tch")),
        ("cpu" | "cuda" | "tch", true) => bail!("--spirv is for --device wgpu"),
        _ => bail!("unknown device {device:?}; it is cpu, wgpu, tch, cuda or cuda:N"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_feature() {
        assert_eq!(feature("cpu", false).unwrap(), None);
        assert_eq!(feature("cuda:1", false).unwrap(), Some("cuda"));
        assert_eq!(feature("wgpu", true).unwrap(), Some("vulkan"));
        for (device, spirv) in [("gpu", false), ("", false), ("cpu", true)] {
            assert!(feature(device, spirv).is_err(), "{device}");
        }
    }
}
