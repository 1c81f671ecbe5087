import { Card, start } from "./app.js";
import { alertList } from "./alert_list.js";

start(new Card("Open alerts", ["alerts"], (rows) => alertList(rows, rows.length), {
  wide: true, note: "Checks of the database, thresholds of monitored applications and anomalies of the load. The thresholds of checks are in pgvigil.alert_thresholds.",
}));
