//! DNS (RFC 1035): a question for a name is an operation, `dns.resolve`. Questions are read strictly and written anew, so
//! that nothing but name and type leaves in them; answers lose what the agent cannot carry, and ECH.

mod answer;
mod budget;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod question;
mod resolver;
#[cfg(test)]
mod tests;
mod words;

pub use resolver::Resolver;
