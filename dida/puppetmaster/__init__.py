"""The puppetmaster: scripts played and lines executed over the PCSs, the scheduler and the storage of a system.

No options and no twistd service stand here; `dida.services.puppetmaster` has them.
"""
