//! The tree of cgroups, watched: what appears, what vanishes, where processes come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use tokio::sync::mpsc;

use super::super::cgroup::mount_point;
use super::super::error::GuardError;
use super::processes::below;

/// Events that may wait; the watching thread waits beyond.
const WAITING: usize = 1024;

/// Something happened in the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TreeEvent {
    /// A cgroup is there, with its path below the mount and without the first slash. Said of each at the beginning too,
    /// parents first.
    Appeared(String),
    /// It is gone.
    Vanished(String),
    /// Its first process came, or its last one went.
    Changed(String),
    /// Everything that was there at the beginning has been said.
    Walked,
}

/// The cgroup2 tree.
#[derive(Debug)]
pub struct CgroupTree {
    mount: PathBuf,
}

impl CgroupTree {
    /// The one that is mounted here.
    ///
    /// # Errors
    /// Where none is.
    pub fn mounted() -> Result<Self, GuardError> {
        Ok(Self {
            mount: mount_point()?,
        })
    }

    /// The directory of a cgroup.
    #[must_use]
    pub fn directory(&self, path: &str) -> PathBuf {
        self.mount.join(path)
    }

    /// Watches until the receiver is dropped (and something happens then).
    ///
    /// # Errors
    /// Where the kernel gives no inotify.
    pub fn watch(&self) -> Result<mpsc::Receiver<TreeEvent>, GuardError> {
        let failed = GuardError::kernel("cannot watch", &self.mount);
        let (events, told) = mpsc::channel(WAITING);
        let mount = self.mount.clone();
        let watching = init(CreateFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|inotify| {
                let thread = std::thread::Builder::new().name("cgroups".into());
                thread.spawn(move || {
                    let mut watch = Watch {
                        mount,
                        inotify,
                        directories: BTreeMap::new(),
                        files: BTreeMap::new(),
                        events,
                    };
                    // Nobody listens any more: the agent ends.
                    let _ended = watch.run();
                })
            });
        watching.map(|_detached| told).map_err(failed)
    }
}

/// The cgroup of this process, below the mount.
#[must_use]
pub fn cgroup_of_self() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(path.to_owned())
}

struct Closed;

struct Watch {
    mount: PathBuf,
    inotify: OwnedFd,
    directories: BTreeMap<i32, String>,
    files: BTreeMap<i32, String>,
    events: mpsc::Sender<TreeEvent>,
}

impl Watch {
    fn run(&mut self) -> Result<(), Closed> {
        self.walk(String::new())?;
        self.tell(TreeEvent::Walked)?;
        let mut buffer = vec![MaybeUninit::uninit(); 16 * 1024];
        loop {
            let batch = {
                let mut reader = Reader::new(&self.inotify, &mut buffer);
                let mut batch = Vec::new();
                loop {
                    match reader.next() {
                        Ok(event) => {
                            let name = event.file_name().and_then(|name| name.to_str().ok());
                            batch.push((event.wd(), event.events(), name.map(str::to_owned)));
                        }
                        Err(rustix::io::Errno::INTR) => continue,
                        Err(error) => {
                            tracing::error!(%error, "cgroups are not watched any more: what appears now is not governed");
                            return Ok(());
                        }
                    }
                    if reader.is_buffer_empty() {
                        break batch;
                    }
                }
            };
            for (watch, flags, name) in batch {
                self.one(watch, flags, name)?;
            }
        }
    }

    fn one(&mut self, watch: i32, flags: ReadFlags, name: Option<String>) -> Result<(), Closed> {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            tracing::warn!("cgroups came and went faster than they were looked at: all are looked at again");
            return self.again();
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.files.remove(&watch);
            self.directories.remove(&watch);
            return Ok(());
        }
        if let Some(path) = self.files.get(&watch) {
            return self.tell(TreeEvent::Changed(path.clone()));
        }
        let (Some(parent), Some(name)) = (self.directories.get(&watch), name) else {
            return Ok(());
        };
        if !flags.contains(ReadFlags::ISDIR) {
            return Ok(());
        }
        let path = joined(parent, &name);
        if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            self.walk(path)
        } else {
            self.tell(TreeEvent::Vanished(path))
        }
    }

    /// Tells of a cgroup and all below it. Watched first and listed then: what is made in between is said twice, and not
    /// never.
    fn walk(&mut self, path: String) -> Result<(), Closed> {
        let mut open = vec![path];
        while let Some(path) = open.pop() {
            let directory = self.mount.join(&path);
            let tree = WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR;
            match add_watch(&self.inotify, &directory, tree) {
                Ok(watch) => drop(self.directories.insert(watch, path.clone())),
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => {
                    tracing::error!(path, %error, "a cgroup cannot be watched (fs.inotify.max_user_watches?): what appears below it is not governed");
                }
            }
            // The root has no such file.
            if let Ok(watch) = add_watch(&self.inotify, directory.join("cgroup.events"), WatchFlags::MODIFY) {
                self.files.insert(watch, path.clone());
            }
            if !path.is_empty() {
                self.tell(TreeEvent::Appeared(path.clone()))?;
            }
            let names = below(&directory).filter_map(|child| child.file_name()?.to_str().map(str::to_owned));
            open.extend(names.map(|name| joined(&path, &name)));
        }
        Ok(())
    }

    fn again(&mut self) -> Result<(), Closed> {
        let known: BTreeSet<String> = self.directories.values().cloned().collect();
        for gone in known
            .iter()
            .filter(|path| !self.mount.join(Path::new(path)).exists())
        {
            self.tell(TreeEvent::Vanished(gone.clone()))?;
        }
        self.walk(String::new())
    }

    fn tell(&self, event: TreeEvent) -> Result<(), Closed> {
        self.events.blocking_send(event).map_err(|_closed| Closed)
    }
}

fn joined(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}/{name}")
    }
}
