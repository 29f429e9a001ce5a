//! `--set SYSCTL=VALUE`, for the commands that run an engine.

use clashtrack_engine::config::Sysctls;

use crate::error::Error;

/// Settings of the engine, under the kernel's names.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct SetArgs {
    /// A sysctl of the engine, with or without `net.netfilter.nf_conntrack_` before its name;
    /// timeouts in whole seconds. May be given several times
    #[arg(long = "set", value_name = "SYSCTL=VALUE")]
    pub set: Vec<String>,
}

impl SetArgs {
    /// The kernel's defaults, with the changes asked for, the last of equal names winning.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no `NAME=VALUE`, an unknown name or a bad value.
    pub fn sysctls(&self) -> Result<Sysctls, Error> {
        let mut sysctls = Sysctls::default();
        for setting in &self.set {
            let Some((name, value)) = setting.split_once('=') else {
                return Err(Error::Argument {
                    flag: "--set",
                    problem: format!("{setting:?} has no value"),
                    remedy: format!("write --set {setting}=VALUE"),
                });
            };
            sysctls
                .set(name.trim(), value)
                .map_err(|error| Error::Argument {
                    flag: "--set",
                    problem: error.to_string(),
                    remedy: "for example --set nf_conntrack_tcp_loose=0".to_owned(),
                })?;
        }
        Ok(sysctls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(settings: &[&str]) -> Result<Sysctls, Error> {
        let set = settings.iter().map(|&s| s.to_owned()).collect();
        SetArgs { set }.sysctls()
    }

    #[test]
    fn settings_change_the_defaults_and_the_last_one_wins() {
        let sysctls = set(&["tcp_loose=0", "nf_conntrack_max=10", "max=20"]).unwrap();
        assert!(!sysctls.tcp_loose);
        assert_eq!(sysctls.max, 20);
        assert_eq!(set(&[]).unwrap(), Sysctls::default());
    }

    #[test]
    fn a_bad_setting_says_what_is_wrong_and_what_to_write() {
        for (setting, said) in [
            ("tcp_loose", "--set tcp_loose=VALUE"),
            ("tcp_lose=1", "did you mean tcp_loose"),
            ("tcp_loose=x", "takes 0 or 1"),
        ] {
            let error = set(&[setting]).unwrap_err().to_string();
            assert!(error.contains(said), "{setting}: {error}");
        }
    }
}
