//! `interdict top`: what running agents do, as it happens.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{cursor, execute};

use crate::control::client::Agents;
use crate::model::duration;

use super::figures::{Figures, Row, Snapshot, gather, lag, shown};
use super::output::{Style, relative, short, time};
use super::status::{agents, no_agent};
use super::{Failure, OK, Outcome, WRONG};

const KEYS: &str = "\
Keys: q or Esc ends, p pauses, space refreshes at once.

Examples:
  sudo interdict top
  sudo interdict top --interval 5s";

/// Watch the running agents: sessions, operations, holds, denials, and what waits for approval.
#[derive(Debug, Args)]
#[command(after_help = KEYS)]
pub(super) struct TopArgs {
    /// The control socket of one agent; default: every agent of this host.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How often to look.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time) {
        Ok(time)
    } else {
        Err("write between \"100ms\" and \"1h\"".into())
    }
}

/// The terminal as it was comes back, whatever happens.
struct Screen;

impl Screen {
    fn take() -> std::io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self;
        execute!(std::io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn show(lines: &[String]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        // Home; each line with what was there before cleared; then the rest of the screen (ECMA-48 EL and ED).
        out.write_all(b"\x1b[H")?;
        out.write_all(lines.join("\x1b[K\r\n").as_bytes())?;
        out.write_all(b"\x1b[K\x1b[J")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _gone = execute!(std::io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _gone = disable_raw_mode();
    }
}

pub(super) fn run(args: TopArgs) -> Outcome {
    let TopArgs { socket, interval } = args;
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure {
            status: WRONG,
            message: "top needs a terminal".into(),
            hint: "`interdict status --json` is for programs.".into(),
        });
    }
    let agents = agents(socket);
    // Nothing to watch is said on the ordinary screen.
    let first = gather(&agents).map_err(|error| no_agent(&error))?;
    let failed = |error: std::io::Error| Failure::new(format!("the terminal: {error}"), "");
    let screen = Screen::take().map_err(failed)?;
    let watched = watch(&agents, first, interval);
    drop(screen);
    watched.map_err(failed)?;
    Ok(OK)
}

fn watch(agents: &Agents, first: Snapshot, interval: Duration) -> std::io::Result<()> {
    let mut before = first.clone();
    let mut now = first;
    let mut taken = Instant::now();
    let mut between = interval;
    let mut paused = false;
    loop {
        let (columns, lines) = size()?;
        let view = View {
            before: &before,
            now: &now,
            between,
            paused,
            columns: columns.into(),
            lines: lines.into(),
        };
        Screen::show(&view.lines(Style::for_stdout()))?;
        match asked(interval.saturating_sub(taken.elapsed()), paused)? {
            Asked::End => return Ok(()),
            Asked::Pause => paused = !paused,
            Asked::Redraw => {}
            Asked::Refresh => {
                between = taken.elapsed();
                taken = Instant::now();
                // Agents that have ended are gone from the list; when none is left, it is empty.
                before = std::mem::replace(&mut now, gather(agents).unwrap_or_default());
            }
        }
    }
}

/// What is to be done next.
enum Asked {
    End,
    Pause,
    Redraw,
    Refresh,
}

/// Waits for a key, or until it is time.
fn asked(left: Duration, paused: bool) -> std::io::Result<Asked> {
    let left = if paused { Duration::from_secs(3600) } else { left };
    if !poll(left)? {
        return Ok(if paused { Asked::Redraw } else { Asked::Refresh });
    }
    let Event::Key(key) = read()? else {
        return Ok(Asked::Redraw);
    };
    if key.kind == KeyEventKind::Release {
        return Ok(Asked::Redraw);
    }
    let interrupted = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    let actions = [
        (KeyCode::Char('q'), Asked::End),
        (KeyCode::Esc, Asked::End),
        (KeyCode::Char('p'), Asked::Pause),
        (KeyCode::Char(' '), Asked::Refresh),
    ];
    if interrupted {
        return Ok(Asked::End);
    }
    let action = actions.into_iter().find(|(code, _)| *code == key.code);
    Ok(action.map_or(Asked::Redraw, |(_, asked)| asked))
}

/// What is on the screen.
struct View<'a> {
    before: &'a Snapshot,
    now: &'a Snapshot,
    between: Duration,
    paused: bool,
    columns: usize,
    lines: usize,
}

const HEAD: [&str; 9] = [
    "PID",
    "SESSIONS",
    "ALLOWED/s",
    "HELD",
    "REFUSED",
    "DENIED",
    "MASKED/s",
    "LAG",
    "FOR",
];

impl View<'_> {
    fn lines(&self, style: Style) -> Vec<String> {
        let now = crate::clock::now();
        let state = if self.paused { "paused" } else { "q ends, p pauses" };
        let count = self.now.rows.len();
        let title = format!(
            "interdict top  {}  {count} {}  {state}",
            time(now.as_nanos()),
            if count == 1 { "agent" } else { "agents" }
        );
        let mut lines = vec![
            style.bold(&short(&title, self.columns)),
            self.totals(style),
            String::new(),
        ];
        let (head, rows) = self.table();
        lines.push(style.bold(&short(&head, self.columns)));
        // At least a few lines stay for what waits.
        let room = self.lines.saturating_sub(lines.len() + 6).max(1);
        let hidden = rows.len().saturating_sub(room);
        lines.extend(rows.iter().take(room).map(|row| clipped(row, self.columns)));
        if hidden > 0 {
            lines.push(style.dim(&format!("… and {hidden} more")));
        }
        if rows.is_empty() {
            lines.push(style.wait("Every agent has ended."));
        }
        lines.push(String::new());
        let waiting = &self.now.waiting;
        let head = format!("{} wait for approval", waiting.len());
        lines.push(if waiting.is_empty() {
            style.dim(&head)
        } else {
            style.wait(&head)
        });
        let room = self.lines.saturating_sub(lines.len());
        for request in waiting.iter().take(room) {
            let line = format!(
                "{}  {:10}  {}  {}  {}",
                request.ticket,
                relative(request.asked_ns, now),
                request.principal,
                request.target,
                request.text
            );
            lines.push(short(&line, self.columns));
        }
        lines.truncate(self.lines);
        lines
    }

    fn totals(&self, style: Style) -> String {
        let sum = |of: fn(&Figures) -> u64| -> u64 {
            let all = self.now.rows.iter().filter_map(|row| row.figures.as_ref());
            all.map(of).sum()
        };
        let refused = sum(|f| f.refused);
        let denied = sum(|f| f.kernel_denials);
        let text = format!(
            "sessions {}  allowed {}  held {}  masked {}  ",
            sum(|f| f.sessions),
            sum(|f| f.allowed),
            sum(|f| f.held),
            sum(|f| f.masked)
        );
        let bad = format!("refused {refused}  denied by the kernel {denied}");
        if self.columns < text.chars().count() + bad.chars().count() {
            return short(&(text + &bad), self.columns);
        }
        if refused + denied > 0 {
            text + &style.bad(&bad)
        } else {
            text + &bad
        }
    }

    /// Columns as wide as what is in them; numbers to the right.
    fn table(&self) -> (String, Vec<String>) {
        let old: BTreeMap<&str, &Figures> = self
            .before
            .rows
            .iter()
            .filter_map(|row| Some((row.status.run.as_str(), row.figures.as_ref()?)))
            .collect();
        let cells: Vec<Vec<String>> = self
            .now
            .rows
            .iter()
            .map(|row| self.cells(row, old.get(row.status.run.as_str()).copied()))
            .collect();
        let width = |at: usize| {
            let head = HEAD.get(at).map_or(0, |h| h.chars().count());
            let widest = cells
                .iter()
                .filter_map(|row| row.get(at))
                .map(|c| c.chars().count())
                .max();
            head.max(widest.unwrap_or(0))
        };
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let line = |row: &mut dyn Iterator<Item = &str>| {
            let last = HEAD.len() - 1;
            let padded = row.zip(&widths).enumerate().map(|(at, (cell, width))| {
                if at == last {
                    cell.to_owned()
                } else {
                    format!("{cell:>width$}")
                }
            });
            padded.collect::<Vec<_>>().join("  ")
        };
        let head = line(&mut HEAD.into_iter());
        let rows = cells
            .iter()
            .map(|row| line(&mut row.iter().map(String::as_str)))
            .collect();
        (head, rows)
    }

    fn cells(&self, row: &Row, before: Option<&Figures>) -> Vec<String> {
        let figures = row.figures.as_ref();
        let rate = |of: fn(&Figures) -> u64| match (figures, before) {
            (Some(now), Some(then)) => per_second(of(now).saturating_sub(of(then)), self.between),
            (Some(_), None) => "0".into(),
            (None, _) => "-".into(),
        };
        vec![
            row.status.pid.to_string(),
            shown(figures, |f| f.sessions),
            rate(|f| f.allowed),
            shown(figures, |f| f.held),
            shown(figures, |f| f.refused),
            shown(figures, |f| f.kernel_denials),
            rate(|f| f.masked),
            lag(figures),
            row.status.principal.clone(),
        ]
    }
}

/// Padding stays, which `short` would take out.
fn clipped(line: &str, columns: usize) -> String {
    super::output::plain(&line.chars().take(columns).collect::<String>())
}

fn per_second(count: u64, time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    let tenths = count.saturating_mul(10_000) / millis;
    if tenths >= 100 || tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use crate::control::wire::Status;

    use super::*;

    fn snapshot(allowed: u64, agents: u32) -> Snapshot {
        let row = |pid: u32| Row {
            status: Status {
                version: "1".into(),
                pid,
                run: format!("run-{pid}"),
                principal: "corp:ada\x1b[2J".into(),
                hooks: Vec::new(),
            },
            figures: Some(Figures {
                sessions: 2,
                allowed,
                refused: 1,
                ..Figures::default()
            }),
        };
        Snapshot {
            rows: (1..=agents).map(row).collect(),
            waiting: Vec::new(),
        }
    }

    fn shown_lines(columns: usize, lines: usize, agents: u32) -> Vec<String> {
        let (before, now) = (snapshot(10, agents), snapshot(25, agents));
        let view = View {
            before: &before,
            now: &now,
            between: Duration::from_secs(2),
            paused: false,
            columns,
            lines,
        };
        view.lines(Style::plain())
    }

    #[test]
    fn rates_and_totals_are_shown_and_nothing_commands_the_terminal() {
        let text = shown_lines(120, 24, 2).join("\n");
        for part in [
            "2 agents",
            "allowed 50",
            "refused 2",
            "7.5",
            "0 wait for approval",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn every_size_is_kept_to() {
        for (columns, lines) in [(1, 1), (10, 3), (40, 10), (200, 60)] {
            for agents in [0, 1, 100] {
                let all = shown_lines(columns, lines, agents);
                assert!(all.len() <= lines, "{columns}x{lines}: {}", all.len());
            }
        }
        assert!(shown_lines(80, 12, 100).join("\n").contains("more"));
    }

    #[test]
    fn rates_are_rounded_as_people_read_them() {
        let second = Duration::from_secs(1);
        assert_eq!(per_second(0, second), "0");
        assert_eq!(per_second(3, Duration::from_secs(2)), "1.5");
        assert_eq!(per_second(1234, second), "1234");
        assert_eq!(per_second(5, Duration::ZERO), "5000");
    }
}
