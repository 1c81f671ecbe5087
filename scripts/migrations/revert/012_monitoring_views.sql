DROP VIEW "{app}".performance_monitoring_view, "{app}".session_content_view, "{app}".session_monitoring_view;
