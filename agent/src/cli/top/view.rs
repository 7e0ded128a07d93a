//! What `top` shows: a row for each workload, sums, and what waits for approval.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::super::figures::{self, Figures, Snapshot};
use super::super::output::{plain, relative, short, time};

/// The keys, in the last line.
const KEYS: &str = "q ends  p pauses  space looks now  s sorts  up/down move";
/// Lines for requests that wait, at most, of so many that there are.
const PART: u16 = 3;

/// A column.
struct Column {
    head: &'static str,
    /// Width: that of the head with its mark, at least.
    width: u16,
    /// What is shown; what it is sorted by, the largest first.
    cell: fn(&Workload<'_>) -> (String, f64),
}

const COLUMNS: [Column; 10] = [
    column("PID", 7, |w| (w.pid.to_string(), -f64::from(w.pid))),
    column("SESSIONS", 9, |w| w.figure(|f| f.sessions)),
    column("CONNECT/s", 10, |w| w.rate(|f| f.redirected)),
    column("ALLOWED/s", 10, |w| w.rate(|f| f.allowed)),
    column("HELD", 6, |w| w.figure(|f| f.held)),
    column("REFUSED", 8, |w| w.figure(|f| f.refused)),
    column("DENIED", 7, |w| w.figure(|f| f.kernel_denials)),
    column("MASKED/s", 9, |w| w.rate(|f| f.masked)),
    column("QUEUE", 6, |w| w.figure(|f| f.queue)),
    column("LAG", 7, |w| {
        let lag = w.now.and_then(|f| f.lag).unwrap_or_default();
        (figures::lag(w.now), lag.as_secs_f64())
    }),
];
/// The last column: whom it acts for, or which workload it is.
const WHO: &str = "WORKLOAD";

const fn column(head: &'static str, width: u16, cell: fn(&Workload<'_>) -> (String, f64)) -> Column {
    Column { head, width, cell }
}

/// One row.
struct Workload<'a> {
    pid: u32,
    name: &'a str,
    /// `None`: this caller is not told.
    now: Option<&'a Figures>,
    before: Option<&'a Figures>,
    between: Duration,
}

impl Workload<'_> {
    fn figure(&self, of: fn(&Figures) -> u64) -> (String, f64) {
        (
            figures::shown(self.now, of),
            self.now.map_or(-1.0, |f| float(of(f))),
        )
    }

    fn rate(&self, of: fn(&Figures) -> u64) -> (String, f64) {
        match (self.now, self.before) {
            (Some(now), Some(before)) => {
                let more = of(now).saturating_sub(of(before));
                (per_second(more, self.between), float(more))
            }
            (Some(_), None) => ("0".into(), 0.0),
            (None, _) => ("-".into(), -1.0),
        }
    }
}

/// For comparing only.
#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody sees which is more")]
fn float(count: u64) -> f64 {
    count as f64
}

/// What is on the screen, and how it is looked at.
pub(super) struct View {
    before: Snapshot,
    now: Snapshot,
    between: Duration,
    coloured: bool,
    /// The column that it is sorted by; `None`: as agents have it.
    sorted: Option<usize>,
    table: TableState,
    pub(super) paused: bool,
}

impl View {
    pub(super) fn new(first: Snapshot, coloured: bool) -> Self {
        Self {
            before: first.clone(),
            now: first,
            between: Duration::from_secs(1),
            coloured,
            sorted: None,
            table: TableState::default(),
            paused: false,
        }
    }

    /// A newer snapshot, taken so much later.
    pub(super) fn take(&mut self, next: Snapshot, between: Duration) {
        self.before = std::mem::replace(&mut self.now, next);
        self.between = between;
    }

    pub(super) fn sort_by_next(&mut self) {
        self.sorted = match self.sorted {
            None => Some(1),
            Some(at) if at + 1 < COLUMNS.len() => Some(at + 1),
            Some(_) => None,
        };
    }

    pub(super) fn move_by(&mut self, rows: isize) {
        let last = self.workloads().len().saturating_sub(1);
        let at = self.table.selected().unwrap_or(0);
        let next = at.saturating_add_signed(rows).min(last);
        // The first press shows where it stands.
        let next = if self.table.selected().is_none() && rows == 1 {
            0
        } else {
            next
        };
        self.table.select(Some(next));
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let waiting = u16::try_from(self.now.waiting.len()).unwrap_or(u16::MAX);
        let waiting = waiting.min(frame.area().height / PART);
        let [title, sums, _gap, table, head, requests, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(2),
            Constraint::Length(1),
            Constraint::Length(waiting),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        frame.render_widget(Paragraph::new(self.title()).style(bold), title);
        frame.render_widget(Paragraph::new(self.sums()), sums);
        self.draw_table(frame, table);
        let count = self.now.waiting.len();
        let style = if count > 0 {
            self.colour(Color::Yellow)
        } else {
            Style::new().add_modifier(Modifier::DIM)
        };
        let said = Line::styled(format!("{count} wait for approval"), style);
        frame.render_widget(Paragraph::new(said), head);
        let lines = self.requests(requests.width.into());
        frame.render_widget(Paragraph::new(lines), requests);
        let dim = Style::new().add_modifier(Modifier::DIM);
        frame.render_widget(Paragraph::new(Line::styled(KEYS, dim)), keys);
    }

    fn title(&self) -> String {
        let now = crate::clock::now();
        let count = self.now.rows.len();
        format!(
            "interdict top  {}  {count} {}{}",
            time(now.as_nanos()),
            if count == 1 { "agent" } else { "agents" },
            if self.paused { "  paused" } else { "" }
        )
    }

    fn sums(&self) -> Line<'static> {
        let sum = |of: fn(&Figures) -> u64| -> u64 {
            let all = self.now.rows.iter().filter_map(|row| row.figures.as_ref());
            all.map(of).sum()
        };
        let (refused, denied) = (sum(|f| f.refused), sum(|f| f.kernel_denials));
        let good = format!(
            "sessions {}  allowed {}  held {}  masked {}  ",
            sum(|f| f.sessions),
            sum(|f| f.allowed),
            sum(|f| f.held),
            sum(|f| f.masked)
        );
        let bad = format!("refused {refused}  denied by the kernel {denied}");
        let style = if refused + denied > 0 {
            self.colour(Color::Red)
        } else {
            Style::new()
        };
        Line::from(vec![Span::raw(good), Span::styled(bad, style)])
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: ratatui::layout::Rect) {
        let workloads = self.workloads();
        if workloads.is_empty() {
            let ended = Line::styled("Every agent has ended.", self.colour(Color::Yellow));
            frame.render_widget(Paragraph::new(ended), area);
            return;
        }
        let right = |text: String| Cell::from(Line::from(text).right_aligned());
        let heads = COLUMNS.iter().enumerate().map(|(at, column)| {
            let mark = if self.sorted == Some(at) { "*" } else { "" };
            right(format!("{mark}{}", column.head))
        });
        let heads = heads.chain([Cell::from(WHO)]);
        let rows = workloads.iter().map(|workload| {
            let cells = COLUMNS.iter().map(|column| right((column.cell)(workload).0));
            Row::new(cells.chain([Cell::from(plain(workload.name))]))
        });
        let widths = COLUMNS
            .iter()
            .map(|column| Constraint::Length(column.width))
            .chain([Constraint::Min(8)]);
        let table = Table::new(rows.collect::<Vec<_>>(), widths)
            .column_spacing(1)
            .header(Row::new(heads).style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = self.table;
        frame.render_stateful_widget(table, area, &mut state);
        self.table = state;
    }

    /// One for each workload of a serving agent, one for each run.
    fn workloads(&self) -> Vec<Workload<'_>> {
        let mut old: BTreeMap<(&str, &str), &Figures> = BTreeMap::new();
        for row in &self.before.rows {
            let run = row.status.run.as_str();
            old.extend(row.figures.as_ref().map(|figures| ((run, ""), figures)));
            old.extend(
                row.workloads
                    .iter()
                    .map(|(name, figures)| ((run, name.as_str()), figures)),
            );
        }
        let mut all = Vec::new();
        for row in &self.now.rows {
            let run = row.status.run.as_str();
            let one = |name, key, now| Workload {
                pid: row.status.pid,
                name,
                now,
                before: old.get(&(run, key)).copied(),
                between: self.between,
            };
            if row.workloads.is_empty() {
                all.push(one(row.status.principal.as_str(), "", row.figures.as_ref()));
            }
            all.extend(
                row.workloads
                    .iter()
                    .map(|(name, figures)| one(name, name.as_str(), Some(figures))),
            );
        }
        if let Some(column) = self.sorted.and_then(|at| COLUMNS.get(at)) {
            all.sort_by(|a, b| (column.cell)(b).1.total_cmp(&(column.cell)(a).1));
        }
        all
    }

    fn requests(&self, columns: usize) -> Vec<Line<'static>> {
        let now = crate::clock::now();
        let line = |request: &crate::control::wire::Request| {
            let text = format!(
                "{}  {}  {}  {}  {}",
                request.ticket,
                relative(request.asked_ns, now),
                request.principal,
                request.target,
                request.text
            );
            Line::from(short(&text, columns))
        };
        self.now.waiting.iter().map(line).collect()
    }

    fn colour(&self, colour: Color) -> Style {
        if self.coloured {
            Style::new().fg(colour)
        } else {
            Style::new().add_modifier(Modifier::BOLD)
        }
    }
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
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use crate::control::wire::{Request, Status};

    use super::super::super::figures;
    use super::*;

    fn row(pid: u32, allowed: u64, workloads: &[&str]) -> figures::Row {
        let figures = Figures {
            sessions: 2,
            allowed,
            refused: 1,
            ..Figures::default()
        };
        figures::Row {
            status: Status {
                version: "1".into(),
                pid,
                run: format!("run-{pid}"),
                principal: "corp:ada\x1b[2J".into(),
                hooks: Vec::new(),
            },
            workloads: workloads
                .iter()
                .zip(1..)
                .map(|(name, times)| {
                    let more = Figures {
                        sessions: times,
                        ..figures.clone()
                    };
                    ((*name).to_owned(), more)
                })
                .collect(),
            figures: Some(figures),
        }
    }

    fn request() -> Request {
        Request {
            ticket: String::new(),
            state: "open".into(),
            principal: "corp/ada".into(),
            target: "shop".into(),
            action: "sql.delete".into(),
            text: String::new(),
            text_cut: false,
            process: String::new(),
            policies: Vec::new(),
            reason: String::new(),
            approvers: Vec::new(),
            min_approvals: 1,
            asked_ns: 0,
            expires_ns: 0,
            approved_by: Vec::new(),
            denied: None,
            uses: None,
        }
    }

    fn snapshot(allowed: u64, agents: u32) -> Snapshot {
        Snapshot {
            rows: (1..=agents).map(|pid| row(pid, allowed, &[])).collect(),
            waiting: Vec::new(),
        }
    }

    fn buffer(view: &mut View, columns: u16, lines: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("a terminal");
        terminal.draw(|frame| view.draw(frame)).expect("drawn");
        terminal.backend().buffer().clone()
    }

    fn text(view: &mut View, columns: u16, lines: u16) -> String {
        let buffer = buffer(view, columns, lines);
        let rows = buffer.content.chunks(columns.into());
        let rows = rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
        rows.map(|row| row.trim_end().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn view(agents: u32) -> View {
        let mut view = View::new(snapshot(10, agents), true);
        view.take(snapshot(25, agents), Duration::from_secs(2));
        view
    }

    #[test]
    fn rates_and_sums_are_shown_and_nothing_commands_the_terminal() {
        let text = text(&mut view(2), 120, 24);
        for part in [
            "2 agents",
            "allowed 50",
            "refused 2",
            "7.5",
            "0 wait for approval",
            "q ends",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn a_service_has_a_row_for_each_workload() {
        let mut view = View::new(
            Snapshot {
                rows: vec![row(7, 1, &["mcp", "tools"])],
                waiting: Vec::new(),
            },
            true,
        );
        let shown = text(&mut view, 120, 24);
        let rows: Vec<&str> = shown
            .lines()
            .filter(|l| l.trim_start().starts_with("7 "))
            .collect();
        assert_eq!(rows.len(), 2, "{shown}");
        assert!(rows.first().is_some_and(|row| row.ends_with("mcp")), "{shown}");
        // Sorted by sessions: the one that has more comes first.
        view.sort_by_next();
        let shown = text(&mut view, 120, 24);
        let first = shown.lines().find(|line| line.trim_start().starts_with("7 "));
        assert!(first.is_some_and(|row| row.ends_with("tools")), "{shown}");
        assert!(shown.contains("*SESSIONS"), "{shown}");
    }

    #[test]
    fn every_size_is_kept_to_and_the_selected_row_is_seen() {
        for (columns, lines) in [(1, 1), (10, 3), (40, 10), (200, 60)] {
            for agents in [0, 1, 100] {
                let _drawn = text(&mut view(agents), columns, lines);
            }
        }
        let mut many = view(100);
        many.move_by(isize::MAX);
        let shown = text(&mut many, 120, 12);
        assert!(
            shown.lines().any(|line| line.trim_start().starts_with("100 ")),
            "{shown}"
        );
        many.move_by(isize::MIN);
        let shown = text(&mut many, 120, 12);
        assert!(
            shown.lines().any(|line| line.trim_start().starts_with("1 ")),
            "{shown}"
        );
        assert!(text(&mut view(0), 80, 12).contains("Every agent has ended."));
    }

    #[test]
    fn what_waits_is_below_and_leaves_room_for_workloads() {
        let mut view = view(3);
        let request = |n: i32| Request {
            ticket: format!("apr-{n}"),
            text: "DELETE FROM orders\x1b[2J".into(),
            ..request()
        };
        view.now.waiting = (0..40).map(request).collect();
        let shown = text(&mut view, 110, 24);
        assert!(shown.contains("40 wait for approval"), "{shown}");
        assert!(
            shown.contains("apr-0") && shown.contains("DELETE FROM orders"),
            "{shown}"
        );
        assert_eq!(
            shown.lines().filter(|l| l.starts_with("apr-")).count(),
            8,
            "{shown}"
        );
        assert!(
            shown.lines().any(|line| line.trim_start().starts_with("3 ")),
            "{shown}"
        );
    }

    #[test]
    fn without_colours_there_are_none() {
        for coloured in [true, false] {
            let mut view = View::new(snapshot(1, 1), coloured);
            let buffer = buffer(&mut view, 110, 24);
            let colours = buffer.content.iter().any(|cell| cell.fg != Color::Reset);
            assert_eq!(colours, coloured);
        }
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
