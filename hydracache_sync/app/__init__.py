"""What every web integration shares: settings, requests, placement of the pool."""
