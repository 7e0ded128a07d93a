//! `interdict top`: what running agents do, as it happens. `view` is what is on the screen.

mod view;

use std::io::{IsTerminal, Stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use crate::control::client::Agents;
use crate::model::duration;

use super::figures::gather;
use super::output::Style;
use super::status::{agents, no_agent};
use super::{Failure, OK, Outcome, WRONG};
use view::View;

const KEYS: &str = "\
Keys: q or Esc ends, p pauses, space looks at once, s sorts by the next column, up and down (k and j, page up and page down,
home and end) move through the workloads. The size of the terminal is followed; with NO_COLOR or --color never there are no colours.

Examples:
  sudo interdict top
  sudo interdict top --interval 5s";

/// Watch the running agents: workloads, connections, operations, holds, denials, lag, and what waits for approval.
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
struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        let _gone = execute!(std::io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _gone = disable_raw_mode();
    }
}

/// Takes the terminal; also where that fails in the middle, it is given back.
fn take() -> std::io::Result<(Terminal<CrosstermBackend<Stdout>>, GiveBack)> {
    enable_raw_mode()?;
    let given_back = GiveBack;
    execute!(std::io::stdout(), EnterAlternateScreen, cursor::Hide)?;
    let terminal = Terminal::new(CrosstermBackend::new(std::io::stdout()))?;
    Ok((terminal, given_back))
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
    let (mut terminal, given_back) = take().map_err(failed)?;
    let view = View::new(first, Style::for_stdout().is_coloured());
    let watched = watch(&mut terminal, &agents, view, interval);
    // Its own end shows the cursor, so it comes first.
    drop(terminal);
    drop(given_back);
    watched.map_err(failed)?;
    Ok(OK)
}

fn watch(
    terminal: &mut Terminal<CrosstermBackend<Stdout>>,
    agents: &Agents,
    mut view: View,
    interval: Duration,
) -> std::io::Result<()> {
    let mut taken = Instant::now();
    loop {
        let _drawn = terminal.draw(|frame| view.draw(frame))?;
        match asked(interval.saturating_sub(taken.elapsed()), view.paused)? {
            Asked::End => return Ok(()),
            Asked::Pause => view.paused = !view.paused,
            Asked::Sort => view.sort_by_next(),
            Asked::Move(by) => view.move_by(by),
            Asked::Redraw => {}
            Asked::Refresh => {
                let between = taken.elapsed();
                taken = Instant::now();
                // Agents that have ended are gone from the list; when none is left, it is empty.
                view.take(gather(agents).unwrap_or_default(), between);
            }
        }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    End,
    Pause,
    Sort,
    /// So many rows down.
    Move(isize),
    Redraw,
    Refresh,
}

/// Waits for a key, or until it is time. A terminal of another size is drawn anew.
fn asked(left: Duration, paused: bool) -> std::io::Result<Asked> {
    let left = if paused { Duration::from_secs(3600) } else { left };
    if !poll(left)? {
        return Ok(if paused { Asked::Redraw } else { Asked::Refresh });
    }
    let Event::Key(key) = read()? else {
        return Ok(Asked::Redraw);
    };
    Ok(if key.kind == KeyEventKind::Release {
        Asked::Redraw
    } else {
        of_key(key)
    })
}

fn of_key(key: KeyEvent) -> Asked {
    const PAGE: isize = 10;
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Asked::End;
    }
    let keys = [
        (KeyCode::Char('q'), Asked::End),
        (KeyCode::Esc, Asked::End),
        (KeyCode::Char('p'), Asked::Pause),
        (KeyCode::Char(' '), Asked::Refresh),
        (KeyCode::Char('s'), Asked::Sort),
        (KeyCode::Up, Asked::Move(-1)),
        (KeyCode::Char('k'), Asked::Move(-1)),
        (KeyCode::Down, Asked::Move(1)),
        (KeyCode::Char('j'), Asked::Move(1)),
        (KeyCode::PageUp, Asked::Move(-PAGE)),
        (KeyCode::PageDown, Asked::Move(PAGE)),
        (KeyCode::Home, Asked::Move(isize::MIN)),
        (KeyCode::End, Asked::Move(isize::MAX)),
    ];
    let known = keys.into_iter().find(|(code, _)| *code == key.code);
    known.map_or(Asked::Redraw, |(_, asked)| asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_help_says() {
        let key = |code, modifiers| of_key(KeyEvent::new(code, modifiers));
        let plain = |code| key(code, KeyModifiers::NONE);
        assert_eq!(plain(KeyCode::Char('q')), Asked::End);
        assert_eq!(plain(KeyCode::Esc), Asked::End);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Asked::End);
        assert_eq!(plain(KeyCode::Char('c')), Asked::Redraw);
        assert_eq!(plain(KeyCode::Char('p')), Asked::Pause);
        assert_eq!(plain(KeyCode::Char(' ')), Asked::Refresh);
        assert_eq!(plain(KeyCode::Char('s')), Asked::Sort);
        assert_eq!(
            (plain(KeyCode::Up), plain(KeyCode::Char('j'))),
            (Asked::Move(-1), Asked::Move(1))
        );
        assert_eq!(plain(KeyCode::F(1)), Asked::Redraw);
    }
}
