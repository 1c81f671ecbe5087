"""The parts that several commands share: option groups, the choice of the database, the place of a report."""
