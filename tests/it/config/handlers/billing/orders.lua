return { gotData = function() end }
