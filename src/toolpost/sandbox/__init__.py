"""Confines hostile code: profiles, back ends of this kernel, limits, warm starts, reaper."""
