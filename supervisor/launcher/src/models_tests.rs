use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A store in a folder of its own, gone with its owner.
pub(crate) struct Temp(pub(crate) PathBuf);

impl Temp {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("casemate-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub(crate) fn model(&self, id: &str) -> PathBuf {
        let folder = self.0.join(id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(MODEL), b"weights").unwrap();
        fs::write(folder.join(MANIFEST), b"text").unwrap();
        folder
    }

    pub(crate) fn open(&self, more: &str) -> Result<Store, StoreError> {
        let text = format!("store = {:?}\n{more}", self.0);
        Store::open(&Config::parse(&text).unwrap(), Owner::current())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn id(text: &str) -> ModelId {
    let (name, version) = text.split_once('/').unwrap();
    ModelId { name: name.parse().unwrap(), version: version.parse().unwrap() }
}

fn ids(store: &Store) -> Vec<String> {
    store.models().iter().map(ToString::to_string).collect()
}

#[test]
fn the_config_chooses() {
    let temp = Temp::new();
    for model in ["a/1", "a/2", "a/10", "b/1"] {
        temp.model(model);
    }
    assert_eq!(ids(&temp.open("").unwrap()), ["a/10", "b/1"]);
    assert_eq!(ids(&temp.open("[models.a]\nversions = \"all\"").unwrap()), ["a/1", "a/2", "a/10", "b/1"]);
    assert_eq!(ids(&temp.open("only_listed = true\n[models.a]\nversions = [\"2\"]").unwrap()), ["a/2"]);
    assert!(matches!(temp.open("[models.a]\nversions = [\"3\"]"), Err(StoreError::NoVersion { .. })));
    assert!(matches!(temp.open("[models.c]"), Err(StoreError::NoModel { .. })));
}

#[test]
fn what_is_no_model_is_left_alone() {
    let temp = Temp::new();
    temp.model("a/1");
    fs::write(temp.0.join("README"), b"").unwrap();
    fs::create_dir(temp.0.join("-x")).unwrap();
    fs::create_dir_all(temp.0.join("a/.git")).unwrap();
    symlink(temp.0.join("a"), temp.0.join("linked")).unwrap();
    symlink("1", temp.0.join("a/current")).unwrap();
    assert_eq!(ids(&temp.open("[models.a]\nversions = \"all\"").unwrap()), ["a/1"]);
}

#[test]
fn no_link_leads_out() {
    let temp = Temp::new();
    let folder = temp.model("a/1");
    let store = temp.open("").unwrap();
    assert!(store.check(&id("a/1")).is_ok());
    fs::remove_file(folder.join(MODEL)).unwrap();
    symlink("/etc/passwd", folder.join(MODEL)).unwrap();
    assert!(matches!(store.files(&id("a/1")), Err(StoreError::Open { errno: Errno::ELOOP, .. })));
    // Nor does a folder that was a real one when the store was listed.
    fs::rename(&folder, temp.0.join("a/old")).unwrap();
    symlink("old", &folder).unwrap();
    assert!(matches!(store.files(&id("a/1")), Err(StoreError::Open { errno: Errno::ELOOP, .. })));
    for way in ["..", "../x", "/etc"] {
        assert!(below(&store.folder, way, OFlag::O_DIRECTORY, Path::new(way)).is_err(), "{way}");
    }
}

#[test]
fn only_regular_files_of_a_bounded_size() {
    let temp = Temp::new();
    let folder = temp.model("a/1");
    let store = temp.open("[limits]\nmodel_bytes = 8").unwrap();
    assert!(store.files(&id("a/1")).is_ok());
    fs::write(folder.join(MODEL), b"nine byte").unwrap();
    let error = store.files(&id("a/1")).unwrap_err();
    assert!(matches!(error, StoreError::Copy { source: SealError::TooLong(8), .. }), "{error}");
    fs::remove_file(folder.join(MODEL)).unwrap();
    nix::unistd::mkfifo(&folder.join(MODEL), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(matches!(store.files(&id("a/1")), Err(StoreError::NotRegular(_))));
    fs::write(folder.join(MANIFEST), vec![b'#'; 256 * 1024 + 1]).unwrap();
    assert!(matches!(store.files(&id("a/1")), Err(StoreError::Copy { source: SealError::TooLong(_), .. })));
}

#[test]
fn nobody_else_may_have_written() {
    let temp = Temp::new();
    let folder = temp.model("a/1");
    let places = [temp.0.clone(), temp.0.join("a"), folder.clone(), folder.join(MODEL), folder.join(MANIFEST)];
    for place in &places {
        let before = fs::metadata(place).unwrap().permissions();
        set_permissions(place, Permissions::from_mode(before.mode() | 0o002)).unwrap();
        let refused = temp.open("").and_then(|store| store.check(&id("a/1")));
        assert!(matches!(refused, Err(StoreError::Owner(_))), "{}", place.display());
        set_permissions(place, before).unwrap();
    }
    assert!(temp.open("").and_then(|store| store.check(&id("a/1"))).is_ok());
    if Owner::current().is_root() {
        std::os::unix::fs::chown(folder.join(MODEL), Some(12_345), None).unwrap();
        assert!(matches!(temp.open("").unwrap().check(&id("a/1")), Err(StoreError::Owner(_))));
    }
}

#[test]
fn sizes_come_along_where_there_are_any() {
    let temp = Temp::new();
    let folder = temp.model("a/1");
    let store = temp.open("").unwrap();
    let shapes = || store.files(&id("a/1")).map(|files| files.shapes);
    assert_eq!(shapes().unwrap(), b"");
    let file = folder.join(convolution::FILE);
    fs::write(&file, b"sha256 00").unwrap();
    assert_eq!(shapes().unwrap(), b"sha256 00");
    fs::write(&file, vec![b'#'; 48 * 1024 + 1]).unwrap();
    assert!(matches!(shapes(), Err(StoreError::Copy { .. })));
    fs::write(&file, b"sha256 00").unwrap();
    set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(shapes(), Err(StoreError::Owner(_))));
    fs::remove_file(&file).unwrap();
    symlink(folder.join(MODEL), &file).unwrap();
    assert!(matches!(shapes(), Err(StoreError::Open { .. })));
}

#[test]
fn a_change_shows_and_a_recent_one_may_not() {
    let temp = Temp::new();
    let file = temp.model("a/1").join(MODEL);
    let store = temp.open("").unwrap();
    let mark = || store.files(&id("a/1")).unwrap().model.mark();
    let first = mark();
    assert_eq!(first, mark());
    let now = SystemTime::now();
    assert!(!first.is_settled(now), "it was written just now");
    assert!(first.is_settled(now + Duration::from_secs(3)));
    assert!(!first.is_settled(SystemTime::UNIX_EPOCH), "a clock that was put back");
    // The same length, by the same name, and as old as it was.
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    fs::write(&file, b"WEIGHTS").unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let second = mark();
    assert_eq!((first.bytes, first.modified), (second.bytes, second.modified));
    assert_ne!(first, second);
    fs::copy(&file, file.with_extension("new")).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    assert_ne!(mark(), second);
}

#[test]
fn an_operator_is_told_who_takes_the_store_s_call_away() {
    let said = StoreError::Open { path: "/srv/models".into(), errno: Errno::ENOSYS }.to_string();
    assert!(said.starts_with("/srv/models: openat2(2)") && said.contains("RestrictSUIDSGID="), "{said}");
}
