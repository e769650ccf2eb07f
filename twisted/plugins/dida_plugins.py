"""The five commands of DIDA, for twistd."""

from twisted.application.service import ServiceMaker

storage = ServiceMaker("DIDA storage", "dida.services.storage", "A replica of DIDA's storage", "dida-storage")
worker = ServiceMaker("DIDA worker", "dida.services.worker", "Executes operators of chains", "dida-worker")
scheduler = ServiceMaker("DIDA scheduler", "dida.services.scheduler", "Assigns operators to workers", "dida-scheduler")
pcs = ServiceMaker("DIDA PCS", "dida.services.pcs", "Creates node processes on this machine", "dida-pcs")
puppetmaster = ServiceMaker("DIDA puppetmaster", "dida.services.puppetmaster", "DIDA's console", "puppetmaster")
