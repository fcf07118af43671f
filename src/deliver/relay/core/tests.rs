//! Everything by a fake resolver, fake tables, fake sessions and a fake clock.
