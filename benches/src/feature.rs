//! Keys of the config that this build may or may not have: what it has is measured, the rest is told as not available.

use casemate_config::Config;
use casemate_tests::casemate::Setup;

/// What a config needs to say, in its three places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines {
    sandbox: String,
    tables: String,
}

/// What says how workers are started; nothing where this build cannot. A `spare` is a zygote that bears one worker: the next
/// one is warm by the time that it is wanted, and each worker has addresses of its own.
pub(crate) fn spawn(how: &str) -> Option<Lines> {
    let line = match how {
        "spare" => "spawn = \"zygote\"\nzygote_births = 1\n".to_owned(),
        how => format!("spawn = \"{how}\"\n"),
    };
    let sandbox = Lines { sandbox: line, tables: String::new() };
    if sandbox.is_known() {
        return Some(sandbox);
    }
    // Without the key, a worker is always started by exec.
    (how == "exec").then(Lines::default)
}

/// What gives a model so many instances in one worker; nothing where this build cannot.
pub(crate) fn instances(model: &str, count: u32) -> Option<Lines> {
    if count == 1 {
        return Some(Lines::default());
    }
    let tables = format!("[models.{model}]\ninstances = {count}\n");
    Some(Lines { sandbox: String::new(), tables }).filter(Lines::is_known)
}

impl Lines {
    /// Whether this build's config reads them.
    fn is_known(&self) -> bool {
        let text = format!("store = \"/srv\"\n[sandbox]\n{}\n{}", self.sandbox, self.tables);
        Config::parse(&text).is_ok()
    }

    /// Says them.
    pub(crate) fn put(&self, setup: Setup) -> Setup {
        setup.sandbox(&self.sandbox).config(&self.tables)
    }
}
