"""MQTT: cameras are asked, watched and switched through topics."""
